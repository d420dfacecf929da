"""A command replaces its own part of a document, and nothing else."""

from tools.sections import write_section

PAGE = "# Page\n\n<!-- a -->\n\nold\n\n<!-- end -->\n\nby hand\n\n<!-- b -->\nkept\n<!-- end -->\n"


def test_only_its_own_part_changes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    write_section(page, "a", "new, with \\1 and <b>\n")
    assert page.read_text() == PAGE.replace("old", "new, with \\1 and <b>")
    write_section(page, "a", "old")
    assert page.read_text() == PAGE


def test_a_part_without_marks_is_appended_once(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    write_section(page, "c", "1")
    write_section(page, "c", "2")
    assert page.read_text() == PAGE + "\n## c\n\n<!-- c -->\n\n2\n\n<!-- end -->\n"
