"""A form made from a task's signature: typed fields, defaults, and errors at the fields."""

import json
from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

import pydantic
from django import forms
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..core.parameters import Kind, Parameter
from ..errors import ArgumentsMismatch
from ..ports import Task

NOTHING: Final = object()
"""Stands for an argument that is left out."""

PREFIX: Final = "argument-"
"""Before the names of arguments in the form, so that none is that of another field."""


class TaskForm(forms.Form):
    """The arguments of a call of one task.

    `arguments` are those of an earlier call, as JSON values; secret ones among them stay as they
    are unless others are written.
    """

    def __init__(
        self,
        task: Task,
        *,
        data: Any = None,
        arguments: Mapping[str, Any] | None = None,
        positional: Sequence[Any] = (),
    ) -> None:
        super().__init__(data)
        self._task = task
        self._before = arguments
        self._positional = positional
        self._parameters = task.describe().parameters[len(positional) :]
        for each in self._parameters:
            self.fields[f"{PREFIX}{each.name}"] = self._field(each)

    def changed_arguments(self) -> dict[str, Any]:
        """Return the JSON values of the arguments that are other than those before."""
        before = self._before or {}
        given: dict[str, Any] = self.cleaned_data["arguments"]
        return {
            name: value
            for name, value in given.items()
            if name not in before or before[name] != value
        }

    def clean(self) -> dict[str, Any]:
        """Check the arguments by the task's own model, as a call would."""
        cleaned = super().clean() or {}
        arguments: dict[str, Any] = {}
        for each in self._parameters:
            field = f"{PREFIX}{each.name}"
            if field in self.errors:
                continue
            try:
                value = self._value(each, cleaned.get(field))
            except forms.ValidationError as error:
                self.add_error(field, error)
                continue
            if value is not NOTHING:
                arguments[each.name] = value
        cleaned["arguments"] = arguments
        if not self.errors:
            self._check(arguments)
        return cleaned

    def _check(self, arguments: Mapping[str, Any]) -> None:
        kept = {k: value for k, value in (self._before or {}).items() if k not in arguments}
        try:
            self._task.check_json(self._positional, {**kept, **arguments})
        except ArgumentsMismatch as error:
            self._add_problems(error, without=kept)

    def _add_problems(self, error: ArgumentsMismatch, *, without: Container[str]) -> None:
        """Show the task's objections at their fields, but none to values that are kept."""
        cause = error.__cause__
        if not isinstance(cause, pydantic.ValidationError):
            self.add_error(None, str(error))
            return
        for problem in cause.errors(include_url=False, include_context=False, include_input=False):
            name, *inside = map(str, problem["loc"])
            if name in without:
                continue
            told = ": ".join(filter(None, [".".join(inside), problem["msg"]]))
            field = f"{PREFIX}{name}"
            self.add_error(field if field in self.fields else None, told)

    def _value(self, parameter: Parameter, written: Any) -> Any:
        """Return the JSON value of what was written; NOTHING for an argument to leave out."""
        if written in (None, ""):
            return self._empty_value(parameter)
        match parameter.kind:
            case Kind.BOOLEAN | Kind.CHOICE:
                return json.loads(written)
            case Kind.JSON:
                return self._task.read_texts({parameter.name: written})[parameter.name]
            case _:
                return written

    def _empty_value(self, parameter: Parameter) -> Any:
        before = self._before or {}
        if parameter.is_secret and parameter.name in before:
            return NOTHING
        default = NOTHING if parameter.is_required else parameter.default
        if default in (None, ""):
            # Of an earlier call it must be said, as its value would stay.
            return default if parameter.name in before else NOTHING
        if parameter.is_nullable and not parameter.is_secret:
            return None
        if parameter.kind is Kind.TEXT and not parameter.is_secret:
            return ""
        if parameter.is_required:
            raise forms.ValidationError(gettext("This argument is required."))
        return NOTHING

    def _field(self, parameter: Parameter) -> forms.Field:
        initial = parameter.default
        if not parameter.is_secret:
            initial = (self._before or {}).get(parameter.name, initial)
        common: dict[str, Any] = {
            "label": parameter.name,
            "required": False,  # the task's model says what is missing
            "help_text": _help(parameter, has_before=self._before is not None),
            "initial": initial,
        }
        if parameter.is_secret:
            attributes = {"autocomplete": "off", "class": "vTextField"}
            return forms.CharField(**common, strip=False, widget=forms.PasswordInput(attributes))
        return _plain_field(parameter, common)


def _plain_field(parameter: Parameter, common: dict[str, Any]) -> forms.Field:
    wide = {"class": "vTextField"}
    match parameter.kind:
        case Kind.INTEGER:
            return forms.IntegerField(**common)
        case Kind.NUMBER:
            return forms.FloatField(**common)
        case Kind.BOOLEAN:
            return _choice_field((True, False), common)
        case Kind.CHOICE:
            return _choice_field(parameter.choices, common)
        case Kind.DATE:
            return forms.CharField(**common, widget=forms.DateInput({"type": "date"}))
        case Kind.TEXT | Kind.DATETIME:
            return forms.CharField(**common, strip=False, widget=forms.TextInput(wide))
        case Kind.JSON:
            common["initial"] = _as_text(common["initial"])
            area = forms.Textarea({"class": "vLargeTextField", "rows": 4})
            return forms.CharField(**common, strip=False, widget=area)


def _choice_field(values: Any, common: dict[str, Any]) -> forms.Field:
    """Return a field whose options are JSON values, and nothing."""
    names = {True: _("yes"), False: _("no")}
    choices = [
        (json.dumps(each), names[each] if each in (True, False) else each) for each in values
    ]
    if common["initial"] is not None:
        common["initial"] = json.dumps(common["initial"])
    return forms.ChoiceField(**common, choices=[("", "—"), *choices])


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def _help(parameter: Parameter, *, has_before: bool) -> str:
    said = [parameter.annotation]
    if parameter.is_secret and has_before:
        said.append(gettext("Secret: leave it empty to keep what it was."))
    elif parameter.is_required:
        said.append(gettext("required"))
    elif not parameter.is_secret:
        said.append(gettext("default: %s") % json.dumps(parameter.default, ensure_ascii=False))
    return " · ".join(filter(None, said))
