"""Low-rank adapters (LoRA; Hu et al. 2021, arXiv 2106.09685), by the library ``peft``."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import nn

from recipes.extras import need_package, nothing_broken


@contextmanager
def low_rank(model: nn.Module, rank: int, whole: Collection[str] = ()) -> Iterator[None]:
    """Context in which only adapters of this ``rank`` are trained, one per linear layer, and the parameters ``whole``.

    At its end the adapters are added to the weights, so that the model is an ordinary one again; after an error they
    are removed. Neurons, norms, convolutions, embeddings and linear layers with parameters in ``whole`` get none.
    """
    need_package("LoRA", "peft")
    with nothing_broken():
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel

    apart = {name.rpartition(".")[0] for name in whole}
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name not in apart]
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    adapted = LoraModel(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear), "default")
    try:
        for name, parameter in model.named_parameters():
            if name in whole:
                parameter.requires_grad_(True)
        yield
    except BaseException:
        adapted.unload()
        raise
    else:
        adapted.merge_and_unload()
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])
