"""What vLLM finds of ours in each of its processes: the entry point `vllm.general_plugins`.

Importing this module is cheap and needs no vLLM; `register` needs it. Read from vLLM 0.32.0.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import threading

# `load_format` of the merged loader, and `backend` of the weight transfer.
LOAD_FORMAT = "deltafleet"
TRANSFER_BACKEND = "delta"

# Linux x86-64: syscall arch_prctl, request ARCH_REQ_XCOMP_PERM, feature XFEATURE_XTILEDATA
# (Documentation/arch/x86/xstate.rst).
_ARCH_PRCTL = 158
_REQUEST_PERMISSION = 0x1023
_TILE_DATA = 18

_WATCH = "end-with-parent"


def register() -> None:
    """Ask for AMX tiles, and register the merged loader and the delta weight transfer.

    vLLM calls it in the front end, the engine core and every worker, sometimes more than once.
    """
    ask_for_amx_tiles()
    end_with_parent()
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory
    from vllm.model_executor.model_loader import register_model_loader

    from model_pool.vllm.loader import MergedLoader

    register_model_loader(LOAD_FORMAT)(MergedLoader)
    try:
        WeightTransferEngineFactory.register_engine(
            TRANSFER_BACKEND, "model_pool.vllm.transfer", "DeltaTransfer"
        )
    except ValueError:  # registered by an earlier call in this process
        return


def ask_for_amx_tiles() -> None:
    """Let this process use the CPU's matrix tiles.

    Without the kernel's permission oneDNN's bfloat16 kernels die with SIGILL on CPUs that have
    them. Does nothing elsewhere; a refusal by an older kernel changes nothing.
    """
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)


def end_with_parent() -> None:
    """In a process that vLLM started: end it when the process that started it is gone.

    Otherwise a worker that is killed leaves its engine core behind, with all that memory.
    """
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == _WATCH for thread in threading.enumerate()):
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name=_WATCH, daemon=True).start()
