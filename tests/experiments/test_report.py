"""The page needs nothing but itself, holds the texts that it is given, and draws the rows."""

import html.parser
import json
import math
import re

import numpy as np
import pytest
from matplotlib.text import Text

from experiments import report
from experiments.report import Section, canvas, picture, sig
from experiments.report.theme import PIXELS, TEXT
from flowjax import records

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(html.parser.HTMLParser):
    """The parts of a page: ids, addresses, images, headings, texts, and the tags still open."""

    def __init__(self, text):
        super().__init__()
        self.tags = []  # of all elements
        self.open = []  # (tag, class) of the elements that are not closed yet
        self.ids = []
        self.fetched = []  # addresses that a browser would load by itself
        self.links = []  # targets of <a>
        self.refs = []  # targets of other elements, such as <use> in an SVG
        self.images = []  # the text that stands for each image
        self.headings = []
        self.answers = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append((tag, given.get("class")))
        if "id" in given:
            self.ids.append(given["id"])
        loading = ("src", "srcset", "data", "poster", "action")
        self.fetched += [given[name] for name in loading if name in given]
        if tag == "a":
            self.links.append(given["href"])
        elif "href" in given:
            self.refs.append(given["href"])
        if tag == "img":
            self.images.append(given.get("alt"))
        if tag == "svg":
            self.images.append(given.get("aria-label"))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    # Every element is closed in its turn.
    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tags = [tag for tag, _ in self.open]
        if "h2" in tags:
            self.headings.append(data)
        if ("p", "answer") in self.open:
            self.answers.append(data)
        if "style" not in tags:
            self.text += data


@pytest.fixture
def rows():
    """Errors that fall as nfe^-order, with a little noise from seed to seed."""
    draw = np.random.default_rng(0)
    found = []
    for solver, order in {"DPM++ 3M exact": 3, "Euler": 1, "unheard of": 2}.items():
        for nfe in (4, 8, 16):
            for seed in range(5):
                error = float(nfe**-order * np.exp(0.1 * draw.normal()))
                found.append({"solver": solver, "nfe": nfe, "seed": seed, "error": error})
    return found


@pytest.fixture
def chapter(rows, tmp_path):
    held = records.Records(tmp_path, {"steps": (4, 8), "inner": {"tolerance": math.inf}})
    for row in rows:
        held.add({k: row[k] for k in ("solver", "nfe", "seed")}, error=row["error"])
    command = "python -m experiments.toy --config=configs/toy.py --workdir=runs/a&b"
    held.finish({"command": command, "seconds": 61.5})

    # Two figures as SVG, and one that is too large for it and becomes a PNG.
    fig, ax = canvas()
    points = report.log_log(ax, records.read(tmp_path), x="nfe", y="error", guides=(1, 3))
    other, axes = canvas()
    cells = report.heatmap(axes, rows, x="nfe", y="solver", value="error", log=True)
    first = picture(fig, "3M is <lowest>", "`x<y`")
    second = [picture(other, "heat"), picture(fig, 'as "png"', largest=0)]
    sections = [
        Section("First: is <3M> steeper?", "Order **2.9** & p < 0.05.", [first], points),
        Section("Second?", "No.", second, cells, "Few.", "a < b"),
    ]
    return report.Chapter("A & B", ["One **1.5x**.", "Two."], sections, report.origin(tmp_path))


@pytest.fixture
def page(chapter):
    return report.page(chapter.title, chapter.lead, chapter.sections, **chapter.origin)


def test_page_fetches_nothing(page):
    found = Page(page)
    assert not found.open and not {"script", "link", "iframe", "object", "base"} & set(found.tags)
    # The one PNG is inside the page.
    assert all(address.startswith("data:") for address in found.fetched) and len(found.fetched) == 1
    assert all(ref.startswith(("#", "data:image/")) for ref in found.refs)
    assert all(link.startswith("#") for link in found.links)
    assert not re.search(r"https?://|@import|url\((?!#)", page)


def test_every_reference_has_its_one_target(page):
    found = Page(page)
    assert len(found.ids) == len(set(found.ids))
    named = [ref[1:] for ref in found.refs + found.links if ref.startswith("#")]
    named += re.findall(r"url\(#([^)]+)\)", page)
    assert named and set(named) <= set(found.ids)


def test_chapters_share_a_page_with_one_figure_a_question_and_links(chapter):
    fig, ax = canvas()
    ax.plot([1, 2], [1, 2])
    shown = picture(fig, "a line", title="It rises")
    sections = [
        Section("Third?", "Yes.", [shown], badge="kept rows", command="run kept"),
        Section("No figure?", "Yes."),
        Section("Fourth?", "Yes.", [shown]),
    ]
    other = chapter._replace(title="C", sections=sections)
    image = report.image(b"png", "two digits")
    made = report.book("Both", ["One.", "Two."], [image], [(chapter, "a.html"), (other, "b.html")])
    found = Page(made)
    inner = {link[1:] for link in found.links if link.startswith("#")}
    assert inner == {"c1", "c2"} <= set(found.ids)
    # A question without a figure is on its own page only; the others keep their numbers. One with
    # rows of another run has a link, and no figure here.
    outer = [link for link in found.links if not link.startswith("#")]
    assert outer == ["a.html", "a.html#s1", "a.html#s2", "b.html", "b.html#s3", "b.html#s1"]
    assert found.images[0] == "two digits" and found.images.count("a line") == 1
    assert "It rises" in found.text and "1 question stands on the full page only" in found.text
    # The command of kept rows stands on the page, that of the run itself once.
    assert "run kept" in found.text and found.text.count("experiments.toy") == 2
    assert "Order 2.9" not in found.text


def test_every_figure_says_what_it_shows(page):
    assert Page(page).images == ["3M is <lowest>", "heat", 'as "png"']
    with pytest.raises(ValueError, match="alt is empty"):
        picture(canvas()[0], " ")


def test_a_summary_of_several_lines_is_a_list(chapter):
    text = report.page("T", ["One **1**.", "Two."], [], **chapter.origin)
    assert "<ul class=lead><li>One <strong>1</strong>.</li><li>Two.</li></ul>" in text


def test_tables_of_different_rows_stand_apart(chapter):
    table = {"Errors": [{"a": 1}, {"a": 2}], "Nothing": [], "Times": [{"b": 3}]}
    text = report.page("T", "", [Section("Q", "A.", table=table)], **chapter.origin)
    found = Page(text)
    assert "Errors (2 rows)" in found.text and "Times (1 row)" in found.text
    assert "Nothing" not in found.text and "–" not in found.text


def test_a_section_of_other_rows_has_a_badge_and_the_page_says_so(chapter):
    own = Section("Q", "A.")
    page = Page(report.page("T", "", [own, own._replace(badge="kept rows")], **chapter.origin))
    assert page.text.count("kept rows") == 2  # in the contents and beside the heading
    assert "but for the 1 section with a" in page.text
    plain = Page(report.page("T", "", [own], **chapter.origin)).text
    assert "but for" not in plain


def test_all_texts_of_a_figure_have_one_size_and_fit_into_it():
    fig, ax = canvas(width=3.0)
    ax.plot([1, 2], [1, 2], label="a line")
    ax.legend(fontsize=5)
    ax.set_title("small", fontsize=14)
    ax.set_xlabel("a label that is much longer than the axis below which it should stand")
    markup = picture(fig, "alt").markup
    assert {text.get_fontsize() for text in fig.findobj(Text)} == {TEXT}
    assert f'style="width:{round(72 * PIXELS * 3)}px"' in markup
    fig.draw_without_rendering()
    box = ax.xaxis.label.get_window_extent()
    assert 0 <= box.x0 and box.x1 <= fig.bbox.x1 and "\n" in ax.get_xlabel()


def test_text_is_at_least_twelve_pixels_on_a_page():
    assert TEXT * PIXELS >= 12


def test_ticks_stand_at_what_was_measured_and_numbers_do_not_touch():
    _, ax = canvas()
    values = [4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100]
    ax.set(xscale="log", xlim=(3.6, 110))
    report.measured_ticks(ax.xaxis, values)
    assert list(ax.get_xticks()) == values
    named = [v for v, text in zip(values, ax.get_xticklabels(), strict=True) if text.get_text()]
    assert named[0] == 4 and named[-1] == 100 and len(named) > 6
    assert np.min(np.diff(np.log(named))) > 0.05 * np.log(25)


@pytest.mark.parametrize("limits", [(0.02, 0.9), (1e-4, 0.5), (1e-9, 2.0)])
def test_decades_are_plain_numbers(limits):
    _, ax = canvas()
    ax.set(yscale="log", ylim=limits)
    report.decade_ticks(ax.yaxis, limits)
    texts = [text.get_text() for text in ax.get_yticklabels()]
    assert 3 <= len(texts) <= 10 and not any("^" in text or "$" in text for text in texts)
    np.testing.assert_allclose([float(text) for text in texts], ax.get_yticks())


@pytest.mark.parametrize("log", [True, False])
def test_a_heat_map_of_ratios_has_its_middle_colour_at_one(log):
    _, ax = canvas()
    rows = [{"a": 1, "b": "x", "v": 0.5}, {"a": 2, "b": "x", "v": 4.0}]
    report.heatmap(ax, rows, x="a", y="b", value="v", log=log, centre=1.0)
    (mesh,) = [child for child in ax.collections if child.get_array() is not None]
    assert mesh.norm(1.0) == pytest.approx(0.5)
    assert 0 <= mesh.norm(0.5) < 0.5 < mesh.norm(4.0) <= 1


def test_an_answer_of_several_lines_is_a_list(chapter):
    text = report.page("T", "", [Section("Q", "One **1**.\nTwo < 3.")], **chapter.origin)
    assert "<ul class=answer><li>One <strong>1</strong>.</li><li>Two &lt; 3.</li></ul>" in text


def test_sections_come_in_order_with_escaped_answers(page):
    found = Page(page)
    assert found.headings == ["First: is <3M> steeper?", "Second?", "Where the numbers come from"]
    assert "".join(found.answers) == "Order 2.9 & p < 0.05.No."
    assert "Order <strong>2.9</strong> &amp; p &lt; 0.05." in page
    assert "One <strong>1.5x</strong>." in page
    assert "<code>x&lt;y</code>" in page


def test_page_says_where_its_numbers_come_from(page, tmp_path):
    text = Page(page).text
    # Rows, time, command, configuration, definitions, environment.
    rows = str(tmp_path / "rows.jsonl")
    for said in (rows, "61.5 s", "runs/a&b", "inner.tolerance", "[4, 8]", "NFE", "jaxlib"):
        assert said in text
    # A long command is broken before its flags.
    assert "python -m experiments.toy \\\n    --config=configs/toy.py" in text


def test_figure_takes_the_colours_of_the_page(page):
    svg = page[page.index("<svg") : page.index("</svg>")]
    assert "currentColor" in svg and "var(--rule)" in svg
    assert report.INK not in svg and report.RULE not in svg


def test_same_rows_give_the_same_page(rows):
    def draw():
        fig, ax = canvas()
        report.log_log(ax, rows, x="nfe", y="error")
        return picture(fig, "alt")

    assert draw() == draw()


def test_page_is_written_whole_or_not_at_all(tmp_path, page):
    path = report.write(tmp_path / "report.html", page)
    with pytest.raises(ValueError, match="fewer points"):
        report.write(path, "x" * 2_000_001)
    assert (tmp_path / "report.html").read_text() == page


def test_points_are_the_medians_of_the_rows(rows):
    points = report.log_log(canvas()[1], rows, x="nfe", y="error")
    # Known solvers in their fixed order, then the others.
    names = list(dict.fromkeys(p["solver"] for p in points))
    assert names == ["Euler", "DPM++ 3M exact", "unheard of"]
    for p in points:
        errors = [r["error"] for r in rows if (r["solver"], r["nfe"]) == (p["solver"], p["nfe"])]
        assert p["median"] == np.median(errors) and p["rows"] == 5
        assert min(errors) <= p["low"] <= p["median"] <= p["high"] <= max(errors)


def test_what_a_logarithm_cannot_show_is_a_cross_on_the_edge():
    errors = {4: math.inf, 8: 0.1, 16: 0.0, 32: math.nan}
    rows = [{"solver": "Euler", "nfe": n, "error": e} for n, e in errors.items()]
    _, ax = canvas()
    report.log_log(ax, rows, x="nfe", y="error", guides=(1,))
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[4, 16, 32]]


def test_panels_share_one_legend(rows):
    fig, axes = canvas(1, 2)
    for ax, solver in zip(axes, ("unheard of", "Euler"), strict=True):
        report.log_log(ax, [row for row in rows if row["solver"] == solver], x="nfe", y="error")
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == ["Euler", "unheard of"]
    # A figure with a shared legend can be drawn.
    picture(fig, "two panels")


@pytest.mark.parametrize("order", [1, 3])
def test_guides_keep_the_frame(rows, order):
    (_, plain), (_, guided) = canvas(), canvas()
    report.log_log(plain, rows, x="nfe", y="error")
    report.log_log(guided, rows, x="nfe", y="error", guides=(order,))
    assert plain.get_ylim() == guided.get_ylim()


def test_bootstrap_band_covers_the_median():
    draw = np.random.default_rng(1)
    bands = [report.median_band(draw.normal(size=25), resamples=200) for _ in range(200)]
    covered = np.mean([low <= 0 <= high for _, low, high in bands])
    # Order statistics of 25 values make the interval a little wide or narrow.
    assert 0.9 < covered <= 0.99


@pytest.mark.parametrize(
    "values, band",
    [
        ([2.0], (2.0, 2.0, 2.0)),
        ([1, math.nan], (math.nan,) * 3),
        ([math.inf] * 3, (math.inf,) * 3),
    ],
)
def test_median_band_of_few(values, band):
    np.testing.assert_equal(report.median_band(values), band)


def test_heatmap_tells_missing_from_infinite():
    rows = [
        {"a": 1, "b": "x", "v": 2.0},
        {"a": 2, "b": "x", "v": math.inf},
        {"a": 1, "b": "y", "v": 4.0},
    ]
    fig, ax = canvas()
    cells = report.heatmap(ax, rows, x="a", y="b", value="v", log=True)
    found = {(c["b"], c["a"]): c["v"] for c in cells}
    assert found == {("x", 1): 2.0, ("x", 2): math.inf, ("y", 1): 4.0}
    # The fourth cell has no row, and so a dash.
    assert [text.get_text() for text in ax.texts] == ["2.0", "inf", "4.0", "–"]


def test_auc_is_the_chance_to_rank_a_pair_right():
    # Integer scores, so that many pairs are equal and count one half.
    draw = np.random.default_rng(0)
    rows = [
        {"s": int(draw.integers(6)) + 2 * bad, "bad": bad, "k": "one"}
        for bad in (True, False)
        for _ in range(30)
    ]
    (found,) = report.roc(canvas()[1], rows, score="s", truth="bad", by="k")
    bad, good = ([r["s"] for r in rows if r["bad"] is kind] for kind in (True, False))
    pairs = [(b > g) + (b == g) / 2 for b in bad for g in good]
    assert found["auc"] == pytest.approx(np.mean(pairs))
    assert (found["positives"], found["negatives"]) == (30, 30)


def test_auc_of_one_kind_is_nan():
    def roc(score):
        rows = [{"s": score, "bad": True, "k": 1}]
        return report.roc(canvas()[1], rows, score="s", truth="bad", by="k")

    (found,) = roc(1.0)
    assert math.isnan(found["auc"])
    with pytest.raises(ValueError, match="NaN"):
        roc(math.nan)


def test_ledger_prints_every_number():
    # A positive bar, a negative one, and one without a length.
    fig, ax = canvas()
    numbers = (("a", 1.5, 1.0, 2.0), ("b", -0.25, -1.0, 0.0), ("c", math.inf, 0.0, 0.0))
    rows = [dict(zip("nvlh", row, strict=True)) for row in numbers]
    report.bar_ledger(ax, rows, label="n", value="v", low="l", high="h")
    picture(fig, "ledger")
    assert [text.get_text() for text in ax.texts] == ["1.5", "-0.25", "inf"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c"]


def test_style_falls_back_to_the_longest_known_beginning():
    exact = report.style("DPM++ 3M exact")
    assert report.style("DPM++ 3M exact, sana") == exact != report.style("DPM++ 3M published")
    assert report.style("other")["color"] == report.GREY


def test_variants_of_a_solver_are_told_apart():
    _, ax = canvas()
    names = ("DPM++ 2M, shift 1", "DPM++ 2M", "DPM++ 2M, shift 3", "Euler")
    rows = [{"solver": n, "nfe": k, "error": 1 / k} for n in names for k in (2, 4)]
    report.log_log(ax, rows, x="nfe", y="error")
    # One colour and another dash for the variants of 2M; the other colour is Euler's.
    labels = [line.get_label() for line in ax.lines]
    assert labels == ["Euler", "DPM++ 2M", "DPM++ 2M, shift 1", "DPM++ 2M, shift 3"]
    assert [line.get_linestyle() for line in ax.lines] == ["-", "-", "--", ":"]
    assert len({line.get_color() for line in ax.lines}) == 2


def test_styles_are_told_apart():
    looks = [json.dumps(report.style(name)) for name in report.SOLVERS]
    assert len(set(looks)) == len(looks)
    # One colour a solver; DDIM is Euler's method on the linear path, and has its colour.
    colours = {report.style(name)["color"] for name in report.SOLVERS if name != "DDIM"}
    assert len(colours) == len(report.SOLVERS) - 1


@pytest.mark.parametrize(
    "x, digits, text",
    [
        # Small numbers.
        (0.0123, 2, "0.012"),
        (0.0123, 3, "0.0123"),
        (1.2e-5, 2, "1.2e-5"),
        (-1.2e-5, 2, "-1.2e-5"),
        (0.00099999, 2, "0.0010"),
        (1e-300, 2, "1.0e-300"),
        # Numbers that rounding carries to another power of ten, and large ones.
        (9.96, 2, "10"),
        (1.0, 2, "1.0"),
        (5.0, 1, "5"),
        (12345.0, 2, "12000"),
        (1.5e7, 2, "1.5e7"),
        (123456, 2, "123456"),
        # Both zeros, and numbers that are not finite.
        (0.0, 2, "0"),
        (-0.0, 2, "0"),
        (math.inf, 2, "inf"),
        (-math.inf, 2, "-inf"),
        (math.nan, 2, "nan"),
        # Other types.
        (np.float32(0.25), 2, "0.25"),
        (np.int64(7), 2, "7"),
        (True, 2, "True"),
        (None, 2, "–"),
        ("text", 2, "text"),
    ],
)
def test_significant_digits(x, digits, text):
    assert sig(x, digits) == text
