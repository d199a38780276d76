"""The pydantic model of a task's signature, and its arguments as typed JSON.

The model validates a call's arguments strictly and turns them into JSON values. On arrival, the
same model turns them back into the annotated types.
"""

import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pydantic
from pydantic_core import to_jsonable_python

from ..errors import ArgumentsMismatch
from .foreign_words import call_option
from .functions import CONTEXT_PARAMETER, WORKFLOW_PARAMETER
from .hints import parameters_of, resolve_hint
from .parameter_types import (
    SECRET_TYPES,
    UNSERIALIZABLE,
    check_type,
    describe_unserializable,
    is_django_model,
    is_secret,
    is_set,
    pass_the_primary_key,
)
from .parameters import Parameter, annotation_of, read_type
from .references import check_reference
from .unique import UniqueTerms, refuse_secret_keys


def refuse_positional(task_name: str, args: Sequence[Any]) -> None:
    """Raise TypeError where a call passes positional arguments."""
    if args:
        raise TypeError(
            f"{task_name} takes keyword arguments only, but the call has {len(args)} by position. "
            "Pass each by its name."
        )


class Arguments:
    """The parameters of one task, as a model that is built once, at first use.

    The model is built late because a module may define the types of its annotations after the
    task, and because a process that runs one task needn't build the models of all tasks.
    """

    def __init__(
        self, func: Callable[..., Any], *, takes_context: bool, is_durable: bool = False
    ) -> None:
        given = {CONTEXT_PARAMETER} if takes_context else set()
        given |= {WORKFLOW_PARAMETER} if is_durable else set()
        self._func = func
        self._models: dict[bool, type[pydantic.BaseModel]] = {}
        self._partial_models: dict[frozenset[str], type[pydantic.BaseModel]] = {}
        self._names = [name for name in parameters_of(func) if name not in given]

    @property
    def names(self) -> list[str]:
        """The names of the parameters that a caller passes."""
        return list(self._names)

    def to_json(self, kwargs: Mapping[str, Any], *, hides_inputs: bool = False) -> dict[str, Any]:
        """Validate a call's arguments; return them as JSON values.

        Raises pydantic.ValidationError for invalid arguments; with `hides_inputs`, the error does
        not show their values. Raises TypeError for a model instance, or a value that pydantic
        can't serialize.
        """
        return self._validate(self._model(hides_inputs=hides_inputs), kwargs)[1]

    def some_valid(
        self, kwargs: Mapping[str, Any], *, without: Collection[str], hides_inputs: bool = False
    ) -> dict[str, Any]:
        """Validate a call's arguments, except for those that are not known yet; see to_json().

        Returns the others as JSON values.
        """
        key = frozenset(without)
        model = self._partial_models.get(key)
        if model is None:
            model = self._partial_models[key] = self._make_model(
                hides_inputs=hides_inputs or bool(self.secret_names), without=key
            )
        given = {name: None if name in key else value for name, value in kwargs.items()}
        named = self._validate(model, given)[1]
        return {name: value for name, value in named.items() if name not in key}

    def check_references(self, results: Mapping[str, Any]) -> None:
        """Raise TypeError where a parameter can't take the result of a step.

        `results` has the annotations of the results; GROUP_RESULT stands for those of a group.
        """
        for name, hint in results.items():
            if name in self._names:
                check_reference(self._func.__qualname__, name, self._hints[name], hint)

    def some_to_json(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return some of a call's arguments as JSON values, without validating them.

        Raises TypeError for a name that is no parameter of the task.
        """
        for name in kwargs:
            if name not in self._names:
                raise TypeError(
                    f"{self._func.__qualname__} has no parameter {name!r}. It has: "
                    f"{', '.join(map(repr, self._names)) or 'none'}."
                )
        return {
            name: pydantic.TypeAdapter(_with_revealed_secrets(self._hints[name])).dump_python(
                value, mode="json"
            )
            for name, value in kwargs.items()
        }

    def default_to_json(self, name: str) -> Any:
        """Return the default of a parameter as a JSON value; None where it has none."""
        return self._defaults.get(name)

    def validate(self, kwargs: Mapping[str, Any], *, hides_inputs: bool = False) -> dict[str, Any]:
        """Validate a call's arguments; return them as the annotated types.

        Raises the same errors as to_json().
        """
        return self._only_passed(self._validate(self._model(hides_inputs=hides_inputs), kwargs)[0])

    def from_json(self, kwargs: Mapping[str, Any], *, hides_inputs: bool = False) -> dict[str, Any]:
        """Turn arguments that arrived as JSON values into the annotated types.

        Raises ArgumentsMismatch, without their values, where they don't fit.
        """
        model = self._model(hides_inputs=hides_inputs)
        try:
            return self._only_passed(model.model_validate_json(json.dumps(kwargs)))
        except pydantic.ValidationError as error:
            raise arguments_mismatch(self._func.__qualname__, _problems(error)) from error

    def read_texts(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Return arguments that were written as text as JSON values.

        What fits its parameter as JSON is JSON; anything else is text, which may not fit either.
        """
        return {name: self._read_text(name, text) for name, text in texts.items()}

    def _read_text(self, name: str, text: str) -> Any:
        value = json_or_text(text)
        if isinstance(value, str) or name not in self._names:
            return value
        try:
            adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(self._hints[name])
            adapter.validate_json(text, strict=True)
        except pydantic.ValidationError:
            return text
        return value

    def describe(self, secret: Collection[str]) -> list[Parameter]:
        """Return what a form asks for; `secret` are the names of all secret ones."""
        found = []
        for name, parameter in parameters_of(self._func).items():
            if name in self._names:
                kind, choices, is_nullable = read_type(self._hints[name])
                found.append(
                    Parameter(
                        name=name,
                        kind=kind,
                        annotation=annotation_of(parameter),
                        choices=choices,
                        is_nullable=is_nullable,
                        is_required=parameter.default is inspect.Parameter.empty,
                        is_secret=name in secret,
                        default=None if name in secret else self._defaults.get(name),
                    )
                )
        return found

    @cached_property
    def secret_names(self) -> frozenset[str]:
        """The parameters that are annotated as secrets."""
        return frozenset(name for name in self._names if is_secret(self._hints[name]))

    def check_unique(self, terms: UniqueTerms) -> None:
        """Raise TypeError where a value that is part of a unique key would be secret."""
        refuse_secret_keys(self._func.__qualname__, terms, self.secret_names)

    def complete(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return a call's JSON values with the defaults of those that it left out.

        They are equal for equal calls: the items of a set are in one order.
        """
        completed = {**self._defaults, **arguments}
        for name in self._sets & completed.keys():
            if isinstance(completed[name], list):
                completed[name] = sorted(completed[name], key=json.dumps)
        return completed

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        """The defaults as JSON values, like those of a call."""
        parameters = parameters_of(self._func)
        return {
            name: _default_to_json(self._hints[name], parameters[name].default)
            for name in self._names
            if parameters[name].default is not inspect.Parameter.empty
        }

    @cached_property
    def _sets(self) -> frozenset[str]:
        return frozenset(name for name in self._names if is_set(self._hints[name]))

    def build(self) -> None:
        """Build the model now. Raises TypeError where a task can't have one of the annotations."""
        self._model(hides_inputs=False)

    def _validate(
        self, by: type[pydantic.BaseModel], kwargs: Mapping[str, Any]
    ) -> tuple[pydantic.BaseModel, dict[str, Any]]:
        try:
            model = by.model_validate(kwargs)
        except pydantic.ValidationError as error:
            self._refuse_model_instances(kwargs)
            self._note_options(error, kwargs)
            raise
        try:
            return model, _dump(model)
        except UNSERIALIZABLE:
            self._refuse_model_instances(kwargs)
            self._refuse_unserializable(model)
            raise

    def _note_options(self, error: Exception, kwargs: Mapping[str, Any]) -> None:
        """Add a note where an option of a call, ours or Celery's, is among its arguments."""
        for name in kwargs.keys() - self._names:
            if (option := call_option(name)) is not None:
                error.add_note(
                    f"{name!r} is no parameter of {self._func.__module__}."
                    f"{self._func.__qualname__}. As an option of the call, it is "
                    f"`task.using({option}=...).execute_on_commit(...)`."
                )

    def _only_passed(self, model: pydantic.BaseModel) -> dict[str, Any]:
        """Return only the arguments that the caller passed; the function has its own defaults."""
        values = model.__dict__
        return {
            name: values[field]
            for field, name in self._names_by_field.items()
            if field in model.model_fields_set
        }

    def _refuse_model_instances(self, kwargs: Mapping[str, Any]) -> None:
        for name, value in kwargs.items():
            if is_django_model(type(value)):
                raise TypeError(pass_the_primary_key(self._func.__qualname__, name, type(value)))

    def _refuse_unserializable(self, model: pydantic.BaseModel) -> None:
        for field, name in self._names_by_field.items():
            try:
                _dump(model, include={field})
            except UNSERIALIZABLE as error:
                raise TypeError(
                    describe_unserializable(self._func.__qualname__, name, error)
                ) from error

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return {name: resolve_hint(self._func, name) for name in self._names}

    @cached_property
    def _names_by_field(self) -> dict[str, str]:
        return {f"p{index}": name for index, name in enumerate(self._names)}

    def _model(self, *, hides_inputs: bool) -> type[pydantic.BaseModel]:
        hides_inputs = hides_inputs or bool(self.secret_names)
        model = self._models.get(hides_inputs)
        if model is None:
            model = self._models[hides_inputs] = self._make_model(hides_inputs=hides_inputs)
        return model

    def _make_model(
        self, *, hides_inputs: bool, without: Collection[str] = ()
    ) -> type[pydantic.BaseModel]:
        """Return a model that takes anything for the parameters `without`."""
        # Fields have neutral names, with the parameters' names as aliases, because a parameter may
        # have the name of an attribute of pydantic's models, like `json` or `copy`.
        hints = self._hints
        parameters = parameters_of(self._func)
        for name in self._names:
            check_type(self._func.__qualname__, name, hints[name])
        fields: dict[str, Any] = {
            field: (
                Any if name in without else _with_revealed_secrets(hints[name]),
                pydantic.Field(_field_default(parameters[name]), alias=name),
            )
            for field, name in self._names_by_field.items()
        }
        return pydantic.create_model(
            self._func.__qualname__,
            __config__=pydantic.ConfigDict(
                strict=True,
                extra="forbid",
                ser_json_inf_nan="constants",
                hide_input_in_errors=hides_inputs,
            ),
            __module__=self._func.__module__,
            **fields,
        )


def arguments_mismatch(name: str, problems: str) -> ArgumentsMismatch:
    """Return the error of arguments that a function, as this release has it, can't take."""
    return ArgumentsMismatch(f"{name} can't take the arguments of this call: {problems}.")


def _problems(error: pydantic.ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in problems)


def json_or_text(text: str) -> Any:
    """Return the value of a text that is JSON, and any other text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def copy_json(value: Any) -> Any:
    """Return a deep copy of JSON values, which the caller may change."""
    if isinstance(value, dict):
        return {name: copy_json(each) for name, each in value.items()}
    return [copy_json(each) for each in value] if isinstance(value, list) else value


def _with_revealed_secrets(hint: Any) -> Any:
    """Return the annotation with secrets that serialize as their values.

    pydantic would serialize them as asterisks, and the task would receive those.
    """
    if hint in SECRET_TYPES:
        return Annotated[hint, pydantic.PlainSerializer(_reveal, when_used="json")]
    parts = get_args(hint)
    if not is_secret(hint):
        return hint
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(_with_revealed_secrets(part) for part in parts)]  # noqa: UP007 - made at run time
    if get_origin(hint) is Annotated:
        return Annotated[(_with_revealed_secrets(parts[0]), *parts[1:])]
    return get_origin(hint)[tuple(_with_revealed_secrets(part) for part in parts)]


def _reveal(secret: pydantic.SecretStr | pydantic.SecretBytes | str | bytes) -> str | bytes:
    return secret if isinstance(secret, str | bytes) else secret.get_secret_value()


def _dump(model: pydantic.BaseModel, *, include: set[str] | None = None) -> dict[str, Any]:
    # A round trip, so that pydantic.Json is sent as the text that it was, and not as its content.
    return model.model_dump(
        mode="json", by_alias=True, exclude_unset=True, round_trip=True, include=include
    )


def _default_to_json(hint: Any, default: Any) -> Any:
    adapter = pydantic.TypeAdapter(_with_revealed_secrets(hint))
    try:
        return adapter.dump_python(adapter.validate_python(default), mode="json")
    except (pydantic.ValidationError, *UNSERIALIZABLE):
        # A default need not have the type of its annotation, as None for an int.
        return to_jsonable_python(default, fallback=lambda value: type(value).__qualname__)


def _field_default(parameter: inspect.Parameter) -> Any:
    return ... if parameter.default is inspect.Parameter.empty else parameter.default
