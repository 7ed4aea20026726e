"""The pages in a headless Chromium: they load without errors or network, and all is there."""

import browser
import pytest
from conftest import results_of, small_config, write_run

from cil_jax import report
from cil_jax.commands import compare

pytestmark = pytest.mark.skipif(browser.executable() is None, reason="no Chromium on this machine")

NAMES = ["apple", "bear <b>", "cloud & sky", "Käfer", "</script>elm"]
FIGURES = ("seen-loss", "seen", "tasks", "matrix", "accuracy", "loss", "parts", "rate", "confusion")
WIDTHS = (390, 800, 1280)
CUT = """[...document.querySelectorAll('.wide, .tile, .legend button, h1, nav, p')].filter((e) =>
  e.scrollWidth > e.clientWidth + 1).map((e) => e.parentElement.id + e.className + e.innerText)"""
# Pairs of texts of one chart whose boxes overlap by more than their empty edges.
COVERED = """[...document.querySelectorAll('svg')].flatMap((chart) => {
  const texts = [...chart.querySelectorAll('text')];
  const boxes = texts.map((text) => text.getBoundingClientRect());
  return texts.flatMap((text, i) => texts.slice(i + 1).filter((_, k) => {
    const [a, b] = [boxes[i], boxes[i + 1 + k]];
    return Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
      Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4;
  }).map((other) => [chart.parentElement.id, text.textContent, other.textContent]));
})"""
SHOWN = """[...document.querySelectorAll('{}')].filter((cell) => {{
  const box = cell.getBoundingClientRect();
  return box.width > 0 && box.left >= 0 && box.right <= window.innerWidth;
}}).map((cell) => cell.innerText)"""
WIDE = "document.documentElement.scrollWidth > window.innerWidth"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser.page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def a_report(tmp_path_factory):
    """The page of a made-up run with exemplars."""
    folder = tmp_path_factory.mktemp("run")
    return report.write_page(write_run(folder, class_names=NAMES, exemplars=4))


@pytest.fixture(scope="module")
def a_large_report(tmp_path_factory):
    """The same of 120 classes in 60 tasks, whose rows and names are long."""
    sizes = (2,) * 60
    matrix = [[0.5] * (t + 1) for t in range(60)]
    names = [f"a_long_name_of_class_number_{c}" for c in range(120)]
    folder = tmp_path_factory.mktemp("large")
    run = write_run(folder, sizes=sizes, matrix=matrix, class_names=names, exemplars=1)
    return report.write_page(run)


@pytest.fixture(scope="module")
def a_comparison(tmp_path_factory):
    """The page of two methods, one of them of two orders."""
    folder = tmp_path_factory.mktemp("compare")
    for method, order in (("icarl", 1993), ("icarl", 1994), ("lwf", 1993), ("lwf", 1994)):
        config = small_config(method, "", order_seed=order)
        about = {"method": method, "preset": "", "order": f"seeded {order}"}
        last = 0.2 if order == 1993 else 0.4
        matrix = ((0.9,), (0.5, 0.8), (last,) * 3)
        write_run(folder / f"{method}{order}", config=config, matrix=matrix, **about)
    file = folder / "page.html"
    assert compare.main([f"{folder}/*", "--page", str(file)]) == 0
    return file


def assert_clean(page, file):
    """No error was reported, and nothing asked for but the file and what is in it."""
    assert page.errors == []
    others = [url for url in page.requests if not url.startswith("data:")]
    assert set(others) == {file.as_uri()}


@pytest.mark.parametrize("width", [390, 1000])
@pytest.mark.parametrize("dark", [False, True])
def test_a_report_loads_with_all_its_figures(page, a_report, width, dark):
    page.open(a_report, width=width, dark=dark)
    assert_clean(page, a_report)
    for name in FIGURES:
        inside = "table" if name == "matrix" else "canvas" if name == "confusion" else "svg"
        size = page.run(
            f"(() => {{ const r = document.querySelector('#figure-{name} {inside}')"
            ".getBoundingClientRect(); return [r.width, r.height]; })()"
        )
        assert min(size) > 80, (name, size)
    assert not page.run(WIDE)
    loaded = "[...document.images].filter((i) => i.naturalWidth === 24 && i.height > 0).length"
    assert page.run(loaded) == 5
    ground, text = page.run(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        ".map((c) => c.match(/\\d+/g).reduce((a, b) => a + +b, 0))"
    )
    assert (ground < 150 and text > 600) if dark else (ground > 700 and text < 150)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_of_a_report_is_cut_or_covered(page, a_report, width):
    page.open(a_report, width=width)
    assert not page.run(WIDE)
    nav_scrolls = width < 1000  # it moves under the finger, and is no more than links
    cut = [text for text in page.run(CUT) if not (nav_scrolls and "Settings" in text)]
    assert cut == []
    assert page.run(COVERED) == []
    shown = page.run(SHOWN.format("#seen ~ .beside td"))
    assert shown.count("38.0%") == 6 and shown.count("65.0%") == 3


@pytest.mark.parametrize("width", WIDTHS)
def test_the_choice_of_the_classifier_is_never_cut(page, a_report, width):
    """However many sections there are: some appear with what has been computed of a run."""
    page.open(a_report, width=width)
    page.run("document.querySelector('nav').prepend('An ', 'additional ', 'section '.repeat(9))")
    box = "document.querySelector('#classifier').getBoundingClientRect()"
    assert page.run(f"{box}.left") >= 0 and page.run(f"{box}.right") <= width
    assert not page.run(WIDE)


@pytest.mark.parametrize("width", [390, 1000])
def test_many_tasks_and_long_names_do_not_widen_the_page(page, a_large_report, width):
    page.open(a_large_report, width=width)
    assert_clean(page, a_large_report)
    assert not page.run(WIDE)
    assert page.run("document.querySelectorAll('#figure-tasks path.line').length") == 60
    assert page.run("document.querySelectorAll('#figure-matrix td').length") == 60 * 61 / 2
    assert a_large_report.stat().st_size < 3_000_000


def test_the_lines_are_where_the_numbers_say(page, a_report):
    """Ends of the first task's line: 90% after task 1, 20% after task 3."""
    page.open(a_report)
    path = page.run("document.querySelector('#figure-tasks path.line').getAttribute('d')")
    numbers = [float(x) for x in path.replace("M", " ").replace("L", " ").split()]
    grid = "[...document.querySelectorAll('#figure-tasks line.grid')]"
    marks = page.run(f"{grid}.map((line) => +line.getAttribute('y1'))")
    zero, top = max(marks), min(marks)
    shown = [100 * (zero - y) / (zero - top) for y in numbers[1::2]]
    assert shown == pytest.approx([90, 50, 20], abs=0.2)
    cells = "[...document.querySelectorAll('#figure-matrix td')].map((c) => c.textContent)"
    assert page.run(cells) == ["90", "50", "80", "20", "40", "70"]


@pytest.mark.parametrize(
    ("fraction", "one_decimal", "whole"),
    [(0.305, "30.5", "31"), (0.3815, "38.2", "38"), (0.2685, "26.9", "27")],
)
def test_figures_of_the_page_round_as_its_tables_do(page, tmp_path, fraction, one_decimal, whole):
    run = write_run(
        tmp_path, sizes=(2, 2), matrix=[[fraction], [fraction] * 2], class_names=NAMES[:4]
    )
    page.open(report.write_page(run))
    texts = "[...document.querySelectorAll('{}')].map((element) => element.textContent)"
    assert set(page.run(texts.format("#figure-matrix td"))) == {whole}
    assert one_decimal in page.run(texts.format("#figure-seen svg text"))
    assert f"{one_decimal}%" in page.run(texts.format("#seen ~ .beside td"))
    titles = "[...document.querySelectorAll('#figure-matrix td')].map((cell) => cell.title)"
    assert all(title.endswith(f": {one_decimal}%") for title in page.run(titles))
    assert page.errors == []


def test_values_are_shown_under_the_pointer(page, a_report):
    page.open(a_report)
    for name, words in (
        ("seen", ["classes seen: 4", "nme (method's own): 65.0%"]),
        ("confusion", ["apple: correct", "90.0% (9 of 10)"]),
    ):
        inside = f"#figure-{name} {'canvas' if name == 'confusion' else 'svg'}"
        page.run(f"document.querySelector('{inside}').scrollIntoView({{block: 'center'}})")
        x, y, width, height = page.run(
            f"(() => {{ const r = document.querySelector('{inside}').getBoundingClientRect();"
            "return [r.x, r.y, r.width, r.height]; })()"
        )
        if name == "seen":  # 4 of 2..5, between margins of 54 and 42
            x, y = x + 54 + (width - 96) * 2 / 3, y + height / 2
        else:  # the first cell: cells are 26 wide, at the lower right
            x, y = x + width - 5 * 26 + 10, y + height - 5 * 26 + 10
        page.move(x, y)
        shown = page.run(f"document.querySelector('#figure-{name} .tip').innerText")
        assert all(word in shown for word in words), shown
    assert page.errors == []


def test_a_class_is_found_by_its_name(page, a_report):
    page.open(a_report)
    text = page.run("document.body.innerText")
    assert all(name in text for name in NAMES)
    page.run(
        "document.getElementById('filter').value = 'KÄF';"
        "document.getElementById('filter').dispatchEvent(new Event('input'))"
    )
    rows = (
        "[...document.querySelectorAll('.class')].filter((c) => !c.hidden).map((c) => c.innerText)"
    )
    (row,) = page.run(rows)
    assert "Käfer task 2" in row and "90.0% correct; predicted as </script>elm 10.0%" in row
    assert page.run("document.getElementById('found').textContent") == "1 found"
    assert page.errors == []


def test_the_classifier_and_the_task_can_be_chosen(page, tmp_path):
    other = results_of(matrix=((0.8,), (0.3, 0.7), (0.1, 0.2, 0.6)))["classifiers"]["nme"]
    classifiers = {**results_of()["classifiers"], "linear": other}
    file = report.write_page(write_run(tmp_path, class_names=NAMES, classifiers=classifiers))
    page.open(file)
    choose = "document.getElementById('{0}').value = '{1}';"
    choose += "document.getElementById('{0}').dispatchEvent(new Event('change'))"
    page.run(choose.format("classifier", "linear"))
    cells = "[...document.querySelectorAll('#figure-matrix td')].map((c) => c.textContent)"
    assert page.run(cells) == ["80", "30", "70", "10", "20", "60"]
    page.run(choose.format("task", "1"))
    text = page.run("document.getElementById('figure-loss').textContent")
    assert "epoch of task 2" in text
    assert page.errors == []


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_of_a_comparison_is_cut_or_covered(page, a_comparison, width):
    page.open(a_comparison, width=width)
    assert not page.run(WIDE)
    assert page.run(CUT) == [] and page.run(COVERED) == []
    shown = page.run(SHOWN.format("#numbers + .wide td"))
    # "n", average, without the first task, last and forgetting of three classifiers of two methods.
    assert sum("30.0 ± 14.1" in cell for cell in shown) == 6
    assert any("icarl" in cell for cell in shown) and any("lwf" in cell for cell in shown)
    if width < 900:
        name = "getComputedStyle(document.querySelector('td[data-name=last]'), '::before').content"
        assert page.run(name) == '"last"'


@pytest.mark.parametrize("width", [390, 1000])
def test_a_comparison_loads_with_curves_and_bands(page, a_comparison, width):
    page.open(a_comparison, width=width, dark=width == 390)
    assert_clean(page, a_comparison)
    assert page.run("document.querySelectorAll('#figure-accuracy path.line').length") == 2
    assert page.run("document.querySelectorAll('#figure-accuracy polygon.band').length") == 2
    assert not page.run(WIDE)
    assert "30.0 ± 14.1" in page.run("document.body.innerText")
