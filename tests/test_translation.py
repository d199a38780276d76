"""The translations of the admin: none is missing, and a page speaks the reader's language."""

import gettext
import re

import pytest

from tests.admin_pages import OVERVIEW, superuser, text_of
from tests.catalogs import LANGUAGES, PACKAGE, Text, texts

PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[sd]")


def _catalog(language: str) -> dict[object, str]:
    with (PACKAGE / "locale" / language / "LC_MESSAGES" / "django.mo").open("rb") as file:
        catalog: dict[object, str] = vars(gettext.GNUTranslations(file))["_catalog"]
    return catalog


def _forms(catalog: dict[object, str], text: Text) -> list[str]:
    """The translations of a text: one, or one for each plural form."""
    key = text.id if text.context is None else f"{text.context}\x04{text.id}"
    if text.plural is None:
        return [catalog.get(key, "")]
    return [found for number in range(2) if (found := catalog.get((key, number), ""))] or [""]


def test_the_marked_texts_are_found() -> None:
    found = texts()

    assert Text("Overview") in found
    assert Text("%d queue was paused.", "%d queues were paused.") in found
    assert Text("well", None, "level") in found
    assert Text("%(n)s call is still broken", "%(n)s calls are still broken") in found


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_lacks_its_translation(language: str) -> None:
    catalog, written = _catalog(language), PACKAGE / "locale" / language / "LC_MESSAGES/django.po"

    missing = [text.id for text in texts() if not all(_forms(catalog, text))]
    known = {text.id for text in texts()}
    ids = [key[0] if isinstance(key, tuple) else key for key in catalog]

    assert missing == [], "translate them: see docs/catalogs.py"
    assert [id for id in ids if str(id).rpartition("\x04")[2] not in {*known, ""}] == []
    assert "#, fuzzy" not in written.read_text()
    assert written.read_text().count("\nmsgid ") == len(texts()) + 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_the_placeholders_of_its_text(language: str) -> None:
    catalog = _catalog(language)

    for text in texts():
        wanted = {tuple(sorted(PLACEHOLDER.findall(each))) for each in (text.id, text.plural or "")}
        for form in _forms(catalog, text):
            assert tuple(sorted(PLACEHOLDER.findall(form))) in wanted, (text.id, form)


@pytest.mark.django_db
@pytest.mark.parametrize(("language", "words"), [("de", "Übersicht"), ("ja", "概要")])
def test_a_page_speaks_the_readers_language(language: str, words: str, settings: object) -> None:
    settings.LANGUAGE_CODE = language  # type: ignore[attr-defined]

    assert words in text_of(superuser(), OVERVIEW)
