"""The built-in text decoders, in plain torch: one module for each family, imported when it is first used."""

from __future__ import annotations

from vedcore.hookspecs import hookimpl
from vedcore.registry import Entry


@hookimpl
def register_decoders() -> list[Entry]:
    """BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT, GPT2, BART, mBART and TrOCR."""
    return [
        Entry(
            "bert",
            "vedcore_decoders.bert:BertDecoder",
            "BERT, causal, with cross-attention",
            variants=(
                "bert-base-uncased",
                "bert-large-uncased",
                "bert-base-cased",
                "bert-large-cased",
                "bert-base-multilingual-uncased",
                "bert-base-multilingual-cased",
            ),
            default_variant="bert-base-uncased",
            model_types=("bert",),
        ),
        Entry(
            "roberta",
            "vedcore_decoders.roberta:RobertaDecoder",
            "RoBERTa, causal, with cross-attention",
            variants=("roberta-base", "roberta-large", "distilroberta-base"),
            default_variant="roberta-base",
            model_types=("roberta",),
        ),
        Entry(
            "xlm-roberta",
            "vedcore_decoders.roberta:XLMRobertaDecoder",
            "XLM-RoBERTa, causal, with cross-attention, many languages",
            variants=("xlm-roberta-base", "xlm-roberta-large"),
            default_variant="xlm-roberta-base",
            model_types=("xlm-roberta",),
        ),
        Entry(
            "camembert",
            "vedcore_decoders.roberta:CamembertDecoder",
            "CamemBERT, causal, with cross-attention, French",
            variants=("camembert-base",),
            default_variant="camembert-base",
            model_types=("camembert",),
        ),
        Entry(
            "distilbert",
            "vedcore_decoders.distilbert:DistilBertDecoder",
            "DistilBERT, causal, with cross-attention",
            variants=("distilbert-base-uncased", "distilbert-base-cased", "distilbert-base-multilingual-cased"),
            default_variant="distilbert-base-uncased",
            model_types=("distilbert",),
        ),
        Entry(
            "gpt2",
            "vedcore_decoders.gpt2:GPT2Decoder",
            "GPT2 with cross-attention",
            variants=("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"),
            default_variant="gpt2",
            model_types=("gpt2",),
        ),
        Entry(
            "bart",
            "vedcore_decoders.bart:BartDecoder",
            "the decoder of BART",
            variants=("bart-base", "bart-large"),
            default_variant="bart-base",
            model_types=("bart",),
        ),
        Entry(
            "mbart",
            "vedcore_decoders.bart:MBartDecoder",
            "the decoder of mBART, many languages",
            variants=("mbart-large-cc25", "mbart-large-50"),
            default_variant="mbart-large-cc25",
            model_types=("mbart",),
        ),
        Entry(
            "trocr",
            "vedcore_decoders.bart:TrOCRDecoder",
            "the decoder of TrOCR, for reading text",
            variants=(
                "trocr-base-handwritten",
                "trocr-base-printed",
                "trocr-base-stage1",
                "trocr-large-handwritten",
                "trocr-large-printed",
                "trocr-large-stage1",
                "trocr-small-handwritten",
                "trocr-small-printed",
                "trocr-small-stage1",
            ),
            default_variant="trocr-base-handwritten",
            model_types=("trocr",),
        ),
    ]
