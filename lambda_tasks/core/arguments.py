"""The pydantic model of a task's signature, and its arguments as typed JSON.

The model validates a call's arguments strictly and turns them into JSON values. On arrival, the
same model turns them back into the annotated types.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

import pydantic
from pydantic_core import PydanticSerializationError

from .hints import resolve_hint

CONTEXT_PARAMETER = "context"

SECRET_TYPES: Final = (pydantic.SecretStr, pydantic.SecretBytes)


def check_signature(func: Callable[..., Any], *, takes_context: bool) -> None:
    """Raise TypeError, naming function and parameter, unless `func` can be a task."""
    name = func.__qualname__
    if "." in name:
        raise TypeError(
            f"{name} can't be a task: a worker imports a task by its dotted name. Move it to the "
            "top level of a module, out of its function or class."
        )
    parameters = inspect.signature(func).parameters
    has_context = takes_context or _is_task_context(func.__annotations__.get(CONTEXT_PARAMETER))
    for parameter in parameters.values():
        is_context = has_context and parameter.name == CONTEXT_PARAMETER
        _check_parameter(name, parameter, func.__annotations__, may_be_positional=is_context)
    if takes_context and CONTEXT_PARAMETER not in parameters:
        raise TypeError(
            f"{name} has takes_context=True but no parameter 'context'. "
            "Add `context: TaskContext` as its first parameter."
        )
    if has_context and not takes_context:
        raise TypeError(
            f"{name} has the parameter 'context' and not the option for it. Write "
            "`@lambda_task(takes_context=True)`."
        )


def takes_context_by_position(func: Callable[..., Any]) -> bool:
    """Return whether a function's parameter `context` is positional, as in Django's own tasks."""
    parameter = inspect.signature(func).parameters.get(CONTEXT_PARAMETER)
    return parameter is not None and parameter.kind is not inspect.Parameter.KEYWORD_ONLY


def refuse_positional(task_name: str, args: Sequence[Any]) -> None:
    """Raise TypeError where a call passes positional arguments."""
    if args:
        raise TypeError(
            f"{task_name} takes keyword arguments only, but {len(args)} positional arguments were "
            "given. Pass each by its name."
        )


class Arguments:
    """The parameters of one task, as a model that is built once, at first use.

    The model is built late because a module may define the types of its annotations after the
    task, and because a process that runs one task needn't build the models of all tasks.
    """

    def __init__(self, func: Callable[..., Any], *, takes_context: bool) -> None:
        self._func = func
        self._models: dict[bool, type[pydantic.BaseModel]] = {}
        self._names = [
            name
            for name in inspect.signature(func).parameters
            if not (takes_context and name == CONTEXT_PARAMETER)
        ]

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
        return self._validate(kwargs, hides_inputs=hides_inputs)[1]

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

    def validate(self, kwargs: Mapping[str, Any], *, hides_inputs: bool = False) -> dict[str, Any]:
        """Validate a call's arguments; return them as the annotated types.

        Raises the same errors as to_json().
        """
        return self._only_passed(self._validate(kwargs, hides_inputs=hides_inputs)[0])

    def from_json(self, kwargs: Mapping[str, Any], *, hides_inputs: bool = False) -> dict[str, Any]:
        """Turn arguments that arrived as JSON values into the annotated types.

        Raises pydantic.ValidationError where they don't fit; see to_json().
        """
        model = self._model(hides_inputs=hides_inputs)
        return self._only_passed(model.model_validate_json(json.dumps(kwargs)))

    @cached_property
    def secret_names(self) -> frozenset[str]:
        """The parameters that are annotated as secrets."""
        return frozenset(name for name in self._names if _is_secret(self._hints[name]))

    def build(self) -> None:
        """Build the model now. Raises TypeError where a task can't have one of the annotations."""
        self._model(hides_inputs=False)

    def _validate(
        self, kwargs: Mapping[str, Any], *, hides_inputs: bool
    ) -> tuple[pydantic.BaseModel, dict[str, Any]]:
        try:
            model = self._model(hides_inputs=hides_inputs).model_validate(kwargs)
            values = model.model_dump(mode="json", by_alias=True, exclude_unset=True)
        except (pydantic.ValidationError, PydanticSerializationError) as error:
            self._refuse_model_instances(kwargs)
            if isinstance(error, PydanticSerializationError):
                raise TypeError(
                    f"An argument of {self._func.__qualname__} can't be serialized: {error}"
                ) from error
            raise
        return model, values

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
            if _is_django_model(type(value)):
                raise TypeError(_pass_the_primary_key(self._func, name, type(value)))

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

    def _make_model(self, *, hides_inputs: bool) -> type[pydantic.BaseModel]:
        # Fields have neutral names, with the parameters' names as aliases, because a parameter may
        # have the name of an attribute of pydantic's models, like `json` or `copy`.
        hints = self._hints
        parameters = inspect.signature(self._func).parameters
        for name in self._names:
            if _is_django_model(hints[name]):
                raise TypeError(_pass_the_primary_key(self._func, name, hints[name]))
        fields: dict[str, Any] = {
            field: (
                _with_revealed_secrets(hints[name]),
                pydantic.Field(_field_default(parameters[name]), alias=name),
            )
            for field, name in self._names_by_field.items()
        }
        try:
            model: type[pydantic.BaseModel] = pydantic.create_model(
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
        except pydantic.errors.PydanticSchemaGenerationError as error:
            raise TypeError(
                f"{self._func.__qualname__} has a parameter of a type that pydantic can't carry "
                f"through JSON: {error.message.splitlines()[0]}"
            ) from error
        for name in self._names:
            _refuse_hidden_secrets(self._func.__qualname__, name, self._hints[name])
        return model


def copy_json(value: Any) -> Any:
    """Return a deep copy of JSON values, which the caller may change."""
    if isinstance(value, dict):
        return {name: copy_json(each) for name, each in value.items()}
    return [copy_json(each) for each in value] if isinstance(value, list) else value


def _check_parameter(
    name: str,
    parameter: inspect.Parameter,
    annotations: Mapping[str, Any],
    *,
    may_be_positional: bool,
) -> None:
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        raise TypeError(
            f"{name} takes **{parameter.name}. Declare each parameter, so that a call can be "
            "checked."
        )
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY and not may_be_positional:
        raise TypeError(
            f"{name} has the positional parameter {parameter.name!r}. Put a `*` before it: "
            "a task's parameters are keyword-only."
        )
    if parameter.name.startswith("_"):
        raise TypeError(
            f"{name} has the parameter {parameter.name!r}. Rename it: names that start with '_' "
            "are reserved for options of the call, like _delay."
        )
    if parameter.name not in annotations:
        raise TypeError(
            f"{name} has the parameter {parameter.name!r} without an annotation. Annotate its type."
        )


def _is_task_context(hint: object) -> bool:
    # By its name: an annotation may be a string, and this room does not import the class.
    return re.search(r"\bTaskContext\b", str(hint)) is not None


def _is_secret(hint: object) -> bool:
    return hint in SECRET_TYPES or any(_is_secret(part) for part in get_args(hint))


def _with_revealed_secrets(hint: Any) -> Any:
    """Return the annotation with secrets that serialize as their values.

    pydantic would serialize them as asterisks, and the task would receive those.
    """
    if hint in SECRET_TYPES:
        return Annotated[hint, pydantic.PlainSerializer(_reveal, when_used="json")]
    parts = get_args(hint)
    if not _is_secret(hint):
        return hint
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(_with_revealed_secrets(part) for part in parts)]  # noqa: UP007 - made at run time
    if get_origin(hint) is Annotated:
        return Annotated[(_with_revealed_secrets(parts[0]), *parts[1:])]
    return get_origin(hint)[tuple(_with_revealed_secrets(part) for part in parts)]


def _reveal(secret: pydantic.SecretStr | pydantic.SecretBytes | str | bytes) -> str | bytes:
    return secret if isinstance(secret, str | bytes) else secret.get_secret_value()


def _refuse_hidden_secrets(function: str, name: str, hint: Any) -> None:
    """Raise TypeError for a secret inside a model, which would be redacted before it is sent."""
    if _is_secret(hint):
        return
    try:
        schema = pydantic.TypeAdapter(hint).json_schema()
    except (pydantic.errors.PydanticInvalidForJsonSchema, pydantic.errors.PydanticUserError):
        return
    if '"writeOnly": true' in json.dumps(schema):
        raise TypeError(
            f"{function} has the parameter {name!r}, a model with a secret field, which would "
            "arrive redacted. Pass the secret as a separate parameter."
        )


def _field_default(parameter: inspect.Parameter) -> Any:
    return ... if parameter.default is inspect.Parameter.empty else parameter.default


def _is_django_model(kind: object) -> bool:
    # Recognized by its attributes, because the core does not import Django.
    return isinstance(kind, type) and hasattr(kind, "_meta") and hasattr(kind, "_base_manager")


def _pass_the_primary_key(func: Callable[..., Any], name: str, kind: type) -> str:
    return (
        f"{func.__qualname__}: {name!r} is the Django model {kind.__name__}. Pass its primary key "
        "and load it in the task: the row may have changed by the time the task runs."
    )
