from __future__ import annotations

import pytest
import torch

from bayes_merger.imaging.pipelines.pipeline import LivePipeline
from bayes_merger.imaging.prompts.embedding import PromptEncoder


@pytest.fixture
def encoder(pipeline_a: LivePipeline) -> PromptEncoder:
    return PromptEncoder(pipeline_a.pipe.tokenizer, pipeline_a.pipe.text_encoder)


def by_diffusers(pipeline: LivePipeline, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        encoded: torch.Tensor = pipeline.pipe.encode_prompt(texts, "cpu", 1, do_classifier_free_guidance=False)[0]
    return encoded


def test_without_weights_it_is_diffusers_encode_prompt(pipeline_a: LivePipeline, encoder: PromptEncoder) -> None:
    texts = ["", "a photo of a cat", "A Photograph, of 3 DOGS!"]
    assert torch.equal(encoder.encode(texts), by_diffusers(pipeline_a, texts))


def test_clip_skip_is_the_normed_layer_before(pipeline_a: LivePipeline, encoder: PromptEncoder) -> None:
    model = pipeline_a.pipe.text_encoder
    ids = pipeline_a.pipe.tokenizer(["a cat"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states
        assert torch.equal(encoder.encode(["a cat"], clip_skip=1), model.final_layer_norm(hidden[-1]))
        assert torch.equal(encoder.encode(["a cat"], clip_skip=2), model.final_layer_norm(hidden[-2]))


def test_a_weight_scales_its_tokens_and_keeps_the_mean(encoder: PromptEncoder) -> None:
    plain, weighted = encoder.encode(["a red cat"])[0], encoder.encode(["a (red:1.5) cat"])[0]
    assert weighted.mean() == pytest.approx(float(plain.mean()), rel=1e-4)
    ratio = weighted / plain
    neutral = ratio[3].mean()  # start, a, red, cat
    assert torch.allclose(ratio[2], 1.5 * neutral.expand(8), rtol=1e-4)
    assert torch.allclose(ratio[1], neutral.expand(8), rtol=1e-4)


def test_a_weighted_neighbour_changes_nothing_for_the_others(encoder: PromptEncoder) -> None:
    mixed = encoder.encode(["a cat", "a (dog:1.3)"])
    assert torch.equal(mixed[0], encoder.encode(["a cat", "a dog"])[0])


def test_long_prompts_are_read_in_chunks_of_75(encoder: PromptEncoder) -> None:
    assert [len(chunk) for chunk in encoder.chunks("cat " * 160)] == [75, 75, 10]
    assert encoder.encode(["cat " * 160]).shape == (1, 231, 8)
    assert torch.equal(encoder.encode(["cat " * 76])[0, :77], encoder.encode(["cat " * 75])[0])


def test_words_behind_a_near_comma_move_on_together(encoder: PromptEncoder) -> None:
    assert [len(chunk) for chunk in encoder.chunks("cat " * 60 + ", " + "dog " * 20)] == [61, 20]
    assert [len(chunk) for chunk in encoder.chunks("cat " * 50 + ", " + "dog " * 30)] == [75, 6]
    assert [len(chunk) for chunk in encoder.chunks("cat " * 74 + ", " + "dog " * 3)] == [75, 3]
    assert [len(chunk) for chunk in encoder.chunks("cat " * 75 + ", dog")] == [75, 2]


def test_break_fills_the_chunk(encoder: PromptEncoder) -> None:
    assert [len(chunk) for chunk in encoder.chunks("a cat BREAK a big dog")] == [2, 3]
    joined = encoder.encode(["a cat BREAK a big dog"])[0]
    assert torch.equal(joined[:77], encoder.encode(["a cat"])[0])
    assert torch.equal(joined[77:], encoder.encode(["a big dog"])[0])


def test_a_shorter_prompt_is_filled_with_empty_chunks(encoder: PromptEncoder) -> None:
    filled = encoder.encode(["a cat"], length=2)[0]
    assert torch.equal(filled[77:], encoder.encode([""])[0])


def test_typographic_quotes_are_straightened(encoder: PromptEncoder) -> None:
    assert encoder.chunks("a “cat” &amp; dog") == encoder.chunks('a "cat" & dog')


def test_the_mean_is_restored_over_all_texts_of_a_prompt_that_changes(encoder: PromptEncoder) -> None:
    # of a prompt that says the first text twice and the second once
    kin = [{0: 2, 1: 1}, {0: 2, 1: 1}, {2: 1}]
    texts = ["a (red:1.5) cat", "a cat", "a (dog:1.3)"]
    neutral, changed = (encoder.encode(texts, emphasis=kind) for kind in ("Ignore", "No norm"))
    means = [2 * x[0].mean() + x[1].mean() for x in (neutral, changed)]
    found = encoder.encode(texts, kin=kin)
    assert torch.allclose(found[:2], changed[:2] * (means[0] / means[1]), atol=1e-6)
    assert not torch.allclose(found[1], neutral[1], atol=1e-3)
    assert torch.equal(found[2], encoder.encode(texts)[2])
