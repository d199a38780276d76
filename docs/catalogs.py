"""Writes the catalogs of translations: new texts into the .po files, and the .mo files from them.

Run `uv run --group test python -m docs.catalogs` after a change of a text, translate what is empty
in `lambda_tasks/locale/*/LC_MESSAGES/django.po`, and run it again.
"""

import django
import polib
from django.conf import settings

from tests.catalogs import LANGUAGES, PACKAGE, Text, texts

PLURALS = {"de": "nplurals=2; plural=n != 1;", "ja": "nplurals=1; plural=0;"}


def main() -> None:
    settings.configure(USE_I18N=True)
    django.setup()
    wanted = sorted(texts(), key=lambda text: (text.id, text.context or ""))
    for language in LANGUAGES:
        file = PACKAGE / "locale" / language / "LC_MESSAGES" / "django.po"
        file.parent.mkdir(parents=True, exist_ok=True)
        before = polib.pofile(str(file)) if file.exists() else polib.POFile()
        known = {(entry.msgid, entry.msgctxt): entry for entry in before}
        after = polib.POFile(wrapwidth=100)
        after.metadata = {
            "Language": language,
            "MIME-Version": "1.0",
            "Content-Type": "text/plain; charset=UTF-8",
            "Content-Transfer-Encoding": "8bit",
            "Plural-Forms": PLURALS[language],
        }
        for text in wanted:
            after.append(known.get((text.id, text.context)) or empty(text, language))
        after.save(str(file))
        after.save_as_mofile(str(file.with_suffix(".mo")))
        print(language, len(after.untranslated_entries()), "texts are not translated")


def empty(text: Text, language: str) -> polib.POEntry:
    """Return the entry of a text that nobody has translated."""
    if text.plural is None:
        return polib.POEntry(msgid=text.id, msgctxt=text.context)
    forms = dict.fromkeys(range(1 if language == "ja" else 2), "")
    return polib.POEntry(
        msgid=text.id, msgid_plural=text.plural, msgctxt=text.context, msgstr_plural=forms
    )


if __name__ == "__main__":
    main()
