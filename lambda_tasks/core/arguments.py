"""From a function's signature to its pydantic model, and typed JSON there and back.

A call's arguments are validated strictly and become JSON values; on arrival the same model turns
them back into the annotated types.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

import pydantic
from pydantic_core import PydanticSerializationError, to_jsonable_python

from .message import encode_json

CONTEXT_PARAMETER = "context"

SECRET_TYPES: Final = (pydantic.SecretStr, pydantic.SecretBytes)


def check_signature(func: Callable[..., Any], *, takes_context: bool) -> None:
    """Raise TypeError, naming function and parameter, unless `func` can be a task."""
    name = func.__qualname__
    if "." in name:
        raise TypeError(
            f"{name} can't be a task: a worker imports a task by its dotted name, so it stands at "
            "the top level of a module, not inside a function or a class."
        )
    for parameter in inspect.signature(func).parameters.values():
        _check_parameter(name, parameter, func.__annotations__)
    if takes_context and CONTEXT_PARAMETER not in inspect.signature(func).parameters:
        raise TypeError(
            f"{name} has takes_context=True and no parameter 'context'. "
            "Add `context: TaskContext` to its parameters."
        )


def refuse_positional(task_name: str, args: Sequence[Any]) -> None:
    """Raise TypeError where there are any."""
    if args:
        raise TypeError(
            f"{task_name} takes keyword arguments only; it was given {len(args)} positional."
        )


class Arguments:
    """The parameters of one task, as a model that is built once, at first use.

    Not before: a module may define the types that its annotations name after the task, and a
    process that runs one task need not build the models of all.
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

        Raises pydantic.ValidationError, which with `hides_inputs` does not show what was passed, or
        TypeError for what can't travel: a model instance, or a value that pydantic can't serialize.
        """
        return self._validated(kwargs, hides_inputs=hides_inputs)[1]

    def some_to_json(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that may be but a part of a call's, as JSON values. Raises as to_json."""
        for name in kwargs:
            if name not in self._names:
                raise TypeError(
                    f"{self._func.__qualname__} has no parameter {name!r}, but "
                    f"{', '.join(map(repr, self._names)) or 'none'}."
                )
        return {
            name: pydantic.TypeAdapter(_travelling(self._hints[name])).dump_python(
                value, mode="json"
            )
            for name, value in kwargs.items()
        }

    def validate(self, kwargs: Mapping[str, Any], *, hides_inputs: bool = False) -> dict[str, Any]:
        """Validate a call's arguments; return them as the annotated types. Raises as to_json."""
        return self._passed(self._validated(kwargs, hides_inputs=hides_inputs)[0])

    def from_json(self, kwargs: Mapping[str, Any], *, hides_inputs: bool = False) -> dict[str, Any]:
        """Turn arguments that arrived as JSON values into the annotated types.

        Raises pydantic.ValidationError; see to_json().
        """
        model = self._model(hides_inputs=hides_inputs)
        return self._passed(model.model_validate_json(json.dumps(kwargs)))

    @cached_property
    def secret_names(self) -> frozenset[str]:
        """The parameters that are annotated as secrets."""
        return frozenset(name for name in self._names if _is_secret(self._hints[name]))

    def build(self) -> None:
        """Build the model now. Raises TypeError where an annotation can't be one of a task's."""
        self._model(hides_inputs=False)

    def _validated(
        self, kwargs: Mapping[str, Any], *, hides_inputs: bool
    ) -> tuple[pydantic.BaseModel, dict[str, Any]]:
        try:
            model = self._model(hides_inputs=hides_inputs).model_validate(kwargs)
            values = model.model_dump(mode="json", by_alias=True, exclude_unset=True)
        except (pydantic.ValidationError, PydanticSerializationError) as error:
            self._explain_untransportable(kwargs)
            if isinstance(error, PydanticSerializationError):
                raise TypeError(f"An argument of {self._func.__qualname__}: {error}") from error
            raise
        return model, values

    def _passed(self, model: pydantic.BaseModel) -> dict[str, Any]:
        """What the caller passed; the function's own defaults do the rest."""
        values = model.__dict__
        return {
            name: values[field]
            for field, name in self._names_by_field.items()
            if field in model.model_fields_set
        }

    def _explain_untransportable(self, kwargs: Mapping[str, Any]) -> None:
        for name, value in kwargs.items():
            if _is_django_model(type(value)):
                raise TypeError(_pass_the_primary_key(self._func, name, type(value)))

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return get_type_hints(self._func, include_extras=True)

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
        # Fields carry neutral names and the parameters' names as aliases, because a parameter
        # may be called `json` or `copy`, which pydantic's own attributes are.
        hints = self._hints
        parameters = inspect.signature(self._func).parameters
        for name in self._names:
            if _is_django_model(hints[name]):
                raise TypeError(_pass_the_primary_key(self._func, name, hints[name]))
        fields: dict[str, Any] = {
            field: (
                _travelling(hints[name]),
                pydantic.Field(_default(parameters[name]), alias=name),
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


def to_json_values(value: object, *, what: str) -> Any:
    """A task's result or state as JSON values. Raises TypeError, naming the type, for others."""
    try:
        values = to_jsonable_python(value)
        encode_json(values, what=what)
    except PydanticSerializationError as error:
        raise TypeError(
            f"{what} is a {type(value).__name__} that is no JSON: {error}. "
            "Use plain values, dataclasses or pydantic models."
        ) from error
    except ValueError as error:
        raise TypeError(f"{what} is a {type(value).__name__}: {error}") from error
    return values


def unshared(value: Any) -> Any:
    """JSON values as new lists and dicts, for who may change them."""
    if isinstance(value, dict):
        return {name: unshared(each) for name, each in value.items()}
    return [unshared(each) for each in value] if isinstance(value, list) else value


def _check_parameter(
    name: str, parameter: inspect.Parameter, annotations: Mapping[str, Any]
) -> None:
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        raise TypeError(
            f"{name} takes **{parameter.name}. Declare each parameter, so that it can be checked "
            "when the task is called."
        )
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
        raise TypeError(
            f"{name} has the positional parameter {parameter.name!r}. Put a `*` before it: "
            "a task's parameters are keyword-only."
        )
    if parameter.name.startswith("_"):
        raise TypeError(
            f"{name} has the parameter {parameter.name!r}. Names that start with '_' are kept for "
            "options of the call, like _delay."
        )
    if parameter.name not in annotations:
        raise TypeError(f"{name} has the parameter {parameter.name!r} without an annotation.")


def _is_secret(hint: object) -> bool:
    return hint in SECRET_TYPES or any(_is_secret(part) for part in get_args(hint))


def _travelling(hint: Any) -> Any:
    """The annotation with secrets that pydantic writes as they are: they are to arrive."""
    if hint in SECRET_TYPES:
        return Annotated[hint, pydantic.PlainSerializer(_reveal, when_used="json")]
    parts = get_args(hint)
    if not _is_secret(hint):
        return hint
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(_travelling(part) for part in parts)]  # noqa: UP007 - made at run time
    if get_origin(hint) is Annotated:
        return Annotated[(_travelling(parts[0]), *parts[1:])]
    return get_origin(hint)[tuple(_travelling(part) for part in parts)]


def _reveal(secret: pydantic.SecretStr | pydantic.SecretBytes | str | bytes) -> str | bytes:
    return secret if isinstance(secret, str | bytes) else secret.get_secret_value()


def _refuse_hidden_secrets(function: str, name: str, hint: Any) -> None:
    """A secret inside of a model would be redacted before it is sent."""
    if _is_secret(hint):
        return
    try:
        schema = pydantic.TypeAdapter(hint).json_schema()
    except (pydantic.errors.PydanticInvalidForJsonSchema, pydantic.errors.PydanticUserError):
        return
    if '"writeOnly": true' in json.dumps(schema):
        raise TypeError(
            f"{function} has the parameter {name!r}, a model with a SecretStr in it, which would "
            "arrive redacted. Pass the secret as a parameter of its own."
        )


def _default(parameter: inspect.Parameter) -> Any:
    return ... if parameter.default is inspect.Parameter.empty else parameter.default


def _is_django_model(kind: object) -> bool:
    # By shape, since this room does not import Django.
    return isinstance(kind, type) and hasattr(kind, "_meta") and hasattr(kind, "_base_manager")


def _pass_the_primary_key(func: Callable[..., Any], name: str, kind: type) -> str:
    return (
        f"{func.__qualname__}: {name!r} is the Django model {kind.__name__}. Pass its primary key "
        "and load it in the task: the row may have changed by the time the task runs."
    )
