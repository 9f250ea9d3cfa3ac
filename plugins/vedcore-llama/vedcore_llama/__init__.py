"""Llama, SmolLM, Mistral, Qwen2 and Qwen3 as text decoders, with cross-attention added."""

from __future__ import annotations

from vedcore import Entry, hookimpl

__all__ = ["register_decoders"]

vedcore_api = 1


@hookimpl
def register_decoders() -> list[Entry]:
    """The families; SmolLM's models are Llamas of their own sizes."""
    return [
        Entry(
            "llama",
            "vedcore_llama.llama:LlamaDecoder",
            "Llama with cross-attention added",
            variants=("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b", "llama-2-7b", "tinyllama"),
            default_variant="llama-3.2-1b",
            model_types=("llama",),
        ),
        Entry(
            "smollm",
            "vedcore_llama.llama:LlamaDecoder",
            "SmolLM and SmolLM2, small Llamas, with cross-attention added",
            variants=(
                "smollm-135m",
                "smollm-360m",
                "smollm-1.7b",
                "smollm2-135m",
                "smollm2-360m",
                "smollm2-1.7b",
            ),
            default_variant="smollm-135m",
        ),
        Entry(
            "mistral",
            "vedcore_llama.mistral:MistralDecoder",
            "Mistral with cross-attention added",
            variants=("mistral-7b", "mistral-7b-v0.3"),
            default_variant="mistral-7b",
            model_types=("mistral",),
        ),
        Entry(
            "qwen2",
            "vedcore_llama.qwen:Qwen2Decoder",
            "Qwen2 and Qwen2.5 with cross-attention added, many languages",
            variants=(
                "qwen2-0.5b",
                "qwen2-1.5b",
                "qwen2-7b",
                "qwen2.5-0.5b",
                "qwen2.5-1.5b",
                "qwen2.5-3b",
                "qwen2.5-7b",
            ),
            default_variant="qwen2-0.5b",
            model_types=("qwen2",),
        ),
        Entry(
            "qwen3",
            "vedcore_llama.qwen:Qwen3Decoder",
            "Qwen3 with cross-attention added, many languages",
            variants=("qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b"),
            default_variant="qwen3-0.6b",
            model_types=("qwen3",),
        ),
    ]
