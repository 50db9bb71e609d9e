"""Weights that are handed to a function, such as ``F.linear(x, self.fc.weight)``.

So do modules that use the weight of another, subclasses with a ``forward`` of their own, such as
convolutions that pad as TensorFlow does, and modules that hold a parameter of their own. No call of
a layer shows what is computed. So the weight on a replica is a tensor that tells which functions it
is handed to, or a view of it: where that is a product (:mod:`~finepruning.network.products`), it is
intercepted like a call; of the rest it is said by what function they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .layers import Layer
from .products import Product, product_of
from .taps import Call

Handle = Callable[[Product, Any], Any]
"""``handle(product, told)``: what a product with the weight ``told`` gives."""
Note = Callable[[str], None]
"""``note(name)``: another function, of that name, is handed it."""


class Told(Tensor):
    """A weight, or a view of one, that tells what it is handed to."""

    plain: Tensor
    source: Any
    """The parameter that it is, or is a view of."""
    computed: bool
    """Whether it is no view, but made of parameters."""
    handle: Handle
    note: Note
    constants: Any
    """Identities of all parameters: what is made of these alone is a weight still."""

    @classmethod
    def of(cls, weight: Tensor, handle: Handle, note: Note, constants: Any = ()) -> Told:
        """One with the values of ``weight``."""
        told = weight.detach().as_subclass(cls)
        told.plain, told.source, told.computed = weight, weight, False
        told.handle, told.note, told.constants = handle, note, constants
        return told

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [*_told([*args, *kwargs.values()])]
        plain_args, plain_kwargs = _plain(args), _plain(kwargs)
        if not given:
            return function(*plain_args, **plain_kwargs)
        known = {id(told.plain): told for told in given}
        stored = {key for key, told in known.items() if not told.computed}
        product = product_of(function, plain_args, plain_kwargs, known, stored)
        if product is not None:
            told = known[id(product.weight)]
            return told.handle(product, told)
        output = function(*plain_args, **plain_kwargs)
        made = _retold(output, given, [*_tensors([*plain_args, *plain_kwargs.values()])])
        if made is None:
            for told in given:
                if _holds_tensor(output):
                    told.note(_name(function))
            return output
        return made


def _retold(output: Any, given: list[Told], inputs: list[Tensor]) -> Any:
    """What a function has made of weights alone, as weights; None: it is something else."""
    told = given[0]
    if isinstance(output, list | tuple):
        parts = [_retold(part, given, inputs) for part in output]
        return type(output)(parts) if parts and None not in map(_id, parts) else None
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    known = {id(one.plain) for one in given}
    if any(id(x) not in known and id(x) not in told.constants for x in inputs):
        return None
    held, source = output.untyped_storage(), told.source.untyped_storage()
    made = output.as_subclass(Told)
    made.plain, made.source = output, told.source
    made.computed = told.computed or held.data_ptr() != source.data_ptr()
    made.handle, made.note, made.constants = told.handle, told.note, told.constants
    return made


def _made_of(output: Tensor, told: Told) -> Told:
    """A product that shows whether it is a weight itself: then what it was made with is a bank of
    weights, no layer."""
    made = output.as_subclass(Told)
    made.plain, made.source, made.computed = output, told.source, True
    made.handle, made.note, made.constants = told.handle, _ignore, told.constants
    return made


def _id(value: Any) -> Any:
    return value if value is None else True


@dataclass
class Uses:
    """What a parameter is used for in one pass."""

    module: Any
    """That holds it, of the network itself."""
    key: str
    products: dict[Any, Product] = field(default_factory=dict)
    """By their form."""
    own_bias: bool = True
    """Whether all products are handed the module's own bias, and would be one that it has not."""
    computed: Product | None = None
    """A product with a weight that is computed from it."""
    others: set[str] = field(default_factory=set)
    """Names of other functions that are handed it."""
    call: tuple[Any, Any] | None = None
    """Input and output of the module, where it takes a single one."""


def note_uses(uses: Uses, constants: Any) -> Callable[[Any, Any, Any], None]:
    """Wires a module of a replica so that what its parameter is used for goes to ``uses``."""

    def wire(module: Any, taps: Any, call: Any) -> None:
        bias_name = "bias"
        own = module._parameters.get(bias_name)
        weight = _plain(module._parameters[uses.key])
        known = isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        if own is None and known and bias_name in module._parameters:
            # Something behind may take up a bias. One of zeros shows whether it would be used.
            zeros = weight.detach().new_zeros(weight.shape[0])
            own = module._parameters[bias_name] = nn.Parameter(zeros, requires_grad=False)

        def handle(product: Product, told: Told) -> Any:
            if told.computed:
                uses.computed = product
            else:
                uses.products[product.form] = product
                uses.own_bias &= own is not None and product.bias is own
            output = product.again(product.input, product.bias)
            return output if known or told.computed else _made_of(output, told)

        module._parameters[uses.key] = Told.of(weight, handle, uses.others.add, constants)
        for key, other in module._parameters.items():  # of which a weight may be computed too
            if key != bias_name and isinstance(other, nn.Parameter) and other.is_floating_point():
                module._parameters[key] = Told.of(other, handle, _ignore, constants)
        run = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
            given = args[0].clone() if alone else None
            output = run(*args, **kwargs)
            if alone and isinstance(output, Tensor):  # what follows may change it in place
                uses.call = given, output.clone()
            return output

        module.forward = forward

    return wire


def wire_products(module: Any, taps: tuple[Layer, ...], call: Call) -> None:
    """Make each product with a weight of ``module``, or with a part of it, a call of its tap."""
    by_key: dict[str, list[Layer]] = {}
    for layer in taps:
        by_key.setdefault(layer.weight_name, []).append(layer)
    for key, layers in by_key.items():
        module._parameters[key] = Told.of(module._parameters[key], _caller(layers, call), _ignore)


def _caller(layers: Iterable[Layer], call: Call) -> Handle:
    layers = [*layers]

    def handle(product: Product, told: Told) -> Any:
        layer = next((one for one in layers if one.part in (None, product.part)), None)
        if layer is None:
            return product.again(product.input, product.bias)
        if layer.plain:  # it may have been lent a bias meanwhile
            return call(
                layer,
                lambda x: product.again(x, layer.module._parameters.get(layer.bias_name)),
                product.input,
            )
        y = call(layer, lambda x: product.again(x, None), product.input)
        if product.bias is None:
            return y
        shape = [1] * y.ndim
        shape[-1 if product.geometry is None else -1 - len(product.geometry.kernel_size)] = -1
        return y + product.bias.view(shape)

    return handle


def _ignore(name: str) -> None: ...


def wire_nothing(module: Any, taps: tuple[Layer, ...], call: Call) -> None:
    """Leave a module as it is: what it computes is not known yet."""


def _told(values: Any) -> Iterable[Told]:
    for value in values:
        if isinstance(value, Told):
            yield value
        elif isinstance(value, list | tuple):
            yield from _told(value)


def _tensors(values: Any) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Told):
        return value.plain
    if isinstance(value, dict):
        return {key: _plain(held) for key, held in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _holds_tensor(value: Any) -> bool:
    return any(True for _ in _tensors([value]))


def _name(function: Any) -> str:
    """What a function is called, a property by its own name."""
    name = getattr(function, "__name__", type(function).__name__)
    return getattr(getattr(function, "__self__", None), "__name__", name) if "__" in name else name
