"""The open-vocabulary test bed: its parts put together, and its training, with tiny random parts and no network."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch.nn import functional

import fastadasp
from fastadasp.errors import ModelError, RunError
from fastadasp.testbed import build, make_projector, prompts
from fastadasp.testbed.__main__ import main
from fastadasp.testbed.adapter import Adapter, read_adapter, write_adapter
from fastadasp.testbed.shape import RENAMED
from tools.testbed import align, features, keeping, speech, store, texts, train
from tools.testbed.lora import add_lora

pytestmark = pytest.mark.skipif(
    not hasattr(transformers, "MossTranscribeDiarizeConfig"), reason="this transformers does not have the family"
)
WIDTH, HIDDEN, RANK = 16, 32, 2
SENTENCES = ("the cat sat on the mat", "a dog ran after the cat", "we saw it all from the door")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Folders of a Whisper and a Llama with a tokenizer like SmolLM2's, and an adapter for them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("parts")
    whisper = transformers.WhisperConfig(
        vocab_size=64,
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_target_positions=16,
        decoder_start_token_id=1,
        bos_token_id=2,
        eos_token_id=2,
        pad_token_id=2,
    )
    transformers.WhisperForConditionalGeneration(whisper).save_pretrained(root / "encoder")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", prompts.END, *RENAMED]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token=prompts.END, pad_token=prompts.END
    ).save_pretrained(root / "decoder")
    llama = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    decoder = transformers.LlamaForCausalLM(llama)
    decoder.save_pretrained(root / "decoder")
    named: dict[str, Any] = {n: p.data.normal_() for n, p in add_lora(decoder.model.layers, RANK, 2.0).items()}
    named |= {f"projector.{n}": p.data for n, p in make_projector(WIDTH, llama).named_parameters()}
    write_adapter(root / "adapter.safetensors", named, scale=2.0)
    return SimpleNamespace(
        encoder=str(root / "encoder"), decoder=str(root / "decoder"), adapter=root / "adapter.safetensors"
    )


@pytest.fixture(scope="module")
def folder(parts: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(
        tmp_path_factory.mktemp("bed") / "model", encoder=parts.encoder, decoder=parts.decoder, adapter=parts.adapter
    )


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return fastadasp.load_model(str(folder))


def a_wave(seconds: float, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(16000 * seconds))).astype(np.float32)


def test_the_model_is_its_parts_and_the_adapter(parts: SimpleNamespace, loaded: Any) -> None:
    whisper = load_file(Path(parts.encoder) / "model.safetensors")
    llama = load_file(Path(parts.decoder) / "model.safetensors")
    adapter = load_file(parts.adapter)
    state = loaded.model.state_dict()
    for name, weight in whisper.items():
        if name.startswith("model.encoder."):
            assert torch.equal(state[name.replace("model.encoder.", "model.audio_tower.")], weight), name
    changed = 0
    for name, weight in llama.items():
        key = "lora." + name.removeprefix("model.").removesuffix(".weight")
        expected = weight.double()
        if f"{key}.A" in adapter:
            expected = expected + 2.0 * adapter[f"{key}.B"].double() @ adapter[f"{key}.A"].double()
            changed += 1
        actual = state[name.replace("model.", "model.language_model.", 1)]
        torch.testing.assert_close(actual.double(), expected, atol=1e-5, rtol=1e-5)
    assert changed == 2 * 7
    assert torch.equal(state["lm_head.weight"], state["model.language_model.embed_tokens.weight"])


def test_the_vocabulary_keeps_its_size_and_ids(parts: SimpleNamespace, loaded: Any) -> None:
    before = transformers.AutoTokenizer.from_pretrained(parts.decoder)
    after = loaded.processor.tokenizer
    assert len(before) == len(after)
    for old, new in RENAMED.items():
        assert before.convert_tokens_to_ids(old) == after.convert_tokens_to_ids(new)
    assert loaded.model.config.audio_token_id == after.convert_tokens_to_ids("<|AUDIO|>")
    assert before("the dog sat").input_ids == after("the dog sat").input_ids


def inputs_for(loaded: Any, wave: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    message = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": prompts.TRANSCRIBE}]}]
    text = loaded.processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    return loaded.processor(text=[text], audio=[wave], sampling_rate=16000, padding=True, return_tensors="pt")


def test_audio_tokens_follow_the_published_form(loaded: Any) -> None:
    """Four encoder frames side by side, linear, SiLU, linear, layer norm: in numpy, float64."""
    inputs = inputs_for(loaded, a_wave(1.0))
    sound = {n: inputs[n] for n in ("input_features", "input_features_mask", "padding_mask")}
    with torch.no_grad():
        out = loaded.model.model.get_audio_features(**sound)
    frames = out.last_hidden_state[0, :52].double().numpy().reshape(13, 4 * WIDTH)
    p = {n: w.double().numpy() for n, w in loaded.model.model.multi_modal_projector.state_dict().items()}
    x = frames @ p["linear_1.weight"].T + p["linear_1.bias"]
    x = x / (1 + np.exp(-x)) @ p["linear_2.weight"].T + p["linear_2.bias"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(
        x.var(-1, keepdims=True) + loaded.model.config.text_config.rms_norm_eps
    )
    expected = x * p["norm.weight"] + p["norm.bias"]
    np.testing.assert_allclose(out.pooler_output.numpy(), expected, atol=1e-5, rtol=1e-4)
    assert (inputs["input_ids"] == loaded.model.config.audio_token_id).sum() == 13


def test_strategies_run_on_it(loaded: Any) -> None:
    inputs = inputs_for(loaded, a_wave(1.6))
    with fastadasp.load_strategy("weighted", budget=0.5).apply(loaded.model) as trace, torch.no_grad():
        tokens = loaded.model.generate(**inputs, max_new_tokens=3, min_new_tokens=3)
    assert tokens.shape[1] == inputs["input_ids"].shape[1] + 3
    assert trace.layers[0].audio_tokens == [20] or trace.layers[0].audio_tokens == 20
    assert trace.layers[-1].audio_tokens in (10, [10])


def test_it_says_what_it_knows(loaded: Any) -> None:
    assert loaded.knows.unknown([prompts.TRANSCRIBE]) is None
    assert loaded.knows.unknown(["Who was Napoleon?"]) is not None


def test_faults_are_one_sentence(
    parts: SimpleNamespace, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--encoder", parts.encoder, "--decoder", parts.decoder, "--adapter", str(parts.adapter)]
    assert main([str(folder), *given]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([str(tmp_path / "new"), *given[:4], "--adapter", str(tmp_path / "none.safetensors")]) == 2
    assert "there is no adapter" in capsys.readouterr().err
    assert main([str(tmp_path / "new"), *given[:4]]) == 2
    assert "no trained adapter of the test bed; name a file with --adapter" in capsys.readouterr().err
    assert main([str(tmp_path / "new"), "--encoder", str(tmp_path), *given[2:]]) == 2
    assert "cannot be loaded" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1
    assert main([str(tmp_path / "new"), "--encoder", "./missing/whisper", *given[2:]]) == 2
    assert "name its folder with --encoder" in capsys.readouterr().err
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no adapter")
    with pytest.raises(ModelError, match="is no adapter"):
        build(tmp_path / "new", encoder=parts.encoder, decoder=parts.decoder, adapter=broken)
    with pytest.raises(RunError, match="is not empty"):
        build(parts.adapter, encoder=parts.encoder, decoder=parts.decoder, adapter=parts.adapter)
    assert not (tmp_path / "new").exists()


def test_an_adapter_of_another_shape_is_refused(parts: SimpleNamespace) -> None:
    given = read_adapter(parts.adapter)
    decoder = transformers.LlamaForCausalLM.from_pretrained(parts.decoder).model
    with pytest.raises(ModelError, match="projector does not fit"):
        given.apply(decoder, make_projector(2 * WIDTH, decoder.config))
    name = "lora.layers.0.self_attn.q_proj"
    wide = Adapter(given.weights | {f"{name}.B": torch.zeros(7, RANK)}, given.about)
    with pytest.raises(ModelError, match=r"is \[7, 32\], but the decoder has \[32, 32\]"):
        wide.apply(decoder, make_projector(WIDTH, decoder.config))
    deep = Adapter(
        given.weights | {f"lora.layers.9.mlp.up_proj.{half}": torch.zeros(1, 1) for half in "AB"},
        {},
    )
    with pytest.raises(ModelError, match="which the decoder does not have"):
        deep.apply(decoder, make_projector(WIDTH, decoder.config))


@pytest.mark.parametrize(
    ("weights", "about", "words"),
    [
        ({"lora.x.A": (2, 3)}, {}, "LoRA for x has no B"),
        ({"lora.x.B": (3, 2)}, {}, "LoRA for x has no A"),
        ({"lora.x.A": (2, 3), "lora.x.B": (3, 4)}, {}, r"A of \[2, 3\] and B of \[3, 4\], which do not fit"),
        ({"lora.x.A": (2,), "lora.x.B": (3, 2)}, {}, "which do not fit"),
        ({}, {"scale": "large"}, "scale is a number, not 'large'"),
        ({}, {"scale": "nan"}, "scale is a number, not 'nan'"),
    ],
)
def test_a_damaged_adapter_is_refused(
    weights: dict[str, tuple[int, ...]], about: dict[str, str], words: str, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "a.safetensors", {n: torch.zeros(shape) for n, shape in weights.items()}, **about)
    with pytest.raises(ModelError, match=words):
        read_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize("there", [False, True])
def test_a_disk_that_refuses_leaves_nothing_behind(
    there: bool, parts: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a part of the model, nor the folders above it that were made; a folder that was there stays."""

    def full(model: Any, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", full)
    folder = tmp_path / "above" / "bed"
    if there:
        folder.mkdir(parents=True)
    with pytest.raises(RunError, match="cannot be written: I/O error: No space left"):
        build(folder, encoder=parts.encoder, decoder=parts.decoder, adapter=parts.adapter)
    assert [path.name for path in tmp_path.rglob("*")] == (["above", "bed"] if there else [])


def test_a_folder_that_cannot_be_made_is_told(parts: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written: Not a directory"):
        build(tmp_path / "file" / "bed", encoder=parts.encoder, decoder=parts.decoder, adapter=parts.adapter)


def test_transcripts_have_one_form(tmp_path: Path) -> None:
    assert texts.normalise("Mr. Weston\u2019s ball-room, I believe?") == "mister weston's ball room i believe"
    (tmp_path / "a.txt").write_text(
        '"Mrs. Hill came in late. It was 4 o\'clock! She _never_ said why;\nand nobody asked her."\n\nNo.\n'
    )
    found = texts.sentences([tmp_path / "a.txt"])
    assert found == ["Mrs. Hill came in late.", "She never said why;", "and nobody asked her."]
    apart = texts.runs("when she said nobody asked her at all", 3)
    assert [text for text in found if not texts.overlapping(text, apart, 3)] == found[:2]


def test_drawn_sentences_have_many_words() -> None:
    found = [f"the cat sat {i}" for i in range(50)] + ["a heron", "a heron", "two herons"]
    found = [text.translate(str.maketrans("0123456789", "abcdefghij")) for text in found]
    drawn = texts.draw([*dict.fromkeys(found), "the cat sat"], 52, seed=1)
    assert {"a heron", "two herons"} <= set(drawn)
    assert "the cat sat" not in drawn
    assert texts.draw(found, 5, seed=1) == texts.draw(found, 5, seed=1) != texts.draw(found, 5, seed=2)


def test_figures_are_read_where_there_is_one_reading() -> None:
    assert texts.without_figures("Chapter 34. The 2 men, 119 of 400.") == (
        "Chapter thirty four. The two men, one hundred and nineteen of four hundred."
    )
    for many in ("in 1856", "for $3", "at 4:30", "2.5 miles", "5%", "the 60's", "1,000 men"):
        assert texts.without_figures(many) is None, many


def test_clips_in_a_window_keep_apart() -> None:
    clips = [features.Clip(a_wave(s, i), {"n": i}) for i, s in enumerate((9.0, 9.0, 9.0, 4.0, 12.3))]
    windows = list(features.packed(iter(clips), np.random.default_rng(0)))
    assert [clip.about["n"] for window in windows for clip in window] == [0, 1, 2, 3, 4]
    for window in windows:
        assert all(clip.start % features.STEP == 0 for clip in window)
        ends = [clip.start + len(clip.wave) for clip in window]
        assert ends[-1] <= features.WINDOW
        assert all(a + 0.3 * 16000 <= clip.start for a, clip in zip(ends, window[1:], strict=False))


@pytest.mark.parametrize("samples", [8000, 16000, 16001, 17279, 17281, 100003])
def test_frames_are_counted_as_the_processor_counts(loaded: Any, samples: int) -> None:
    inputs = inputs_for(loaded, a_wave(samples / 16000)[:samples])
    tokens = int((inputs["input_ids"] == loaded.model.config.audio_token_id).sum())
    assert features.frames_of(samples) == 4 * tokens


def test_stored_frames_are_those_in_use(parts: SimpleNamespace, loaded: Any) -> None:
    """What training reads of a recording is what the built model's encoder hands its projector."""
    wave = a_wave(1.3)
    whisper = features.load_whisper(parts.encoder, torch.float32)
    mel = transformers.WhisperFeatureExtractor(feature_size=80)
    stored = features.encode(whisper, mel, [[features.Clip(wave, {})]])
    inputs = inputs_for(loaded, wave)
    with torch.no_grad():
        used = loaded.model.model.audio_tower(inputs["input_features"]).last_hidden_state
    torch.testing.assert_close(stored, used, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of six clips; the first is for choosing. Its last line is half written."""
    root = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((6 * 120, WIDTH)).astype(np.float16)
    (root / "frames.f16").write_bytes(rows.tobytes())
    lines = [
        {"start": 120 * i, "frames": 120, "text": SENTENCES[i % 3], "source": "voice", "label": "exact"}
        | ({"split": "choose"} if i == 0 else {})
        for i in range(6)
    ]
    (root / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"start": 72')
    return root


def test_a_store_is_read_as_far_as_it_goes(frames: Path) -> None:
    lines = store.read_store([frames], WIDTH)
    assert len(lines) == 6
    assert lines[1].audio().shape == (30, 4 * WIDTH)
    stored = np.fromfile(frames / "frames.f16", np.float16).reshape(-1, WIDTH)
    np.testing.assert_array_equal(lines[1].audio()[2].reshape(4, WIDTH).numpy(), stored[128:132])
    drawn = store.batches(lines, 70, 0)
    sizes = [len(next(drawn)) for _ in range(6)]
    assert sizes == [2] * 6
    with pytest.raises(ValueError, match="no clips"):
        next(store.batches([], 70, 0))


def test_ctc_over_drawn_tokens_is_the_whole_one_where_all_are_drawn(frames: Path) -> None:
    torch.manual_seed(1)
    config = SimpleNamespace(hidden_size=HIDDEN, rms_norm_eps=1e-5)
    model = align.Aligner(make_projector(WIDTH, config), torch.randn(20, HIDDEN))
    batch = store.read_store([frames], WIDTH)[:2]
    targets = [[3, 7, 7, 1], [5, 19]]
    loss = align.ctc(model, batch, targets, torch.arange(20))
    audio, lengths = store.padded(batch)
    scores = model(audio, torch.arange(20)).transpose(0, 1)
    wanted = torch.tensor([4, 8, 8, 2, 6, 20])
    whole = functional.ctc_loss(scores, wanted, lengths, torch.tensor([4, 2]), reduction="sum") / 6
    torch.testing.assert_close(loss, whole, atol=0.05, rtol=0.02)  # one of them in bfloat16
    few = align.ctc(model, batch, targets, torch.tensor([0]))
    assert few.item() < loss.item()


def test_training_and_use_agree_on_the_lora(parts: SimpleNamespace, frames: Path) -> None:
    """The decoder with LoRA beside its projections is the one with the LoRA added to them."""
    given = read_adapter(parts.adapter)
    line = store.read_store([frames], WIDTH)[0]
    tokenizer = transformers.AutoTokenizer.from_pretrained(parts.decoder)
    beside = transformers.LlamaForCausalLM.from_pretrained(parts.decoder).eval()
    within = transformers.LlamaForCausalLM.from_pretrained(parts.decoder).eval()
    for name, parameter in add_lora(beside.model.layers, RANK, given.scale).items():
        parameter.data.copy_(given.weights[name])
    projector = make_projector(WIDTH, beside.config)
    given.apply(within.model, projector)
    asked = [(prompts.TRANSCRIBE, line.text)]
    with torch.no_grad():
        a, b = (float(train.Bed(decoder, tokenizer, projector).loss([line], asked)) for decoder in (beside, within))
    assert a == pytest.approx(b, rel=1e-4)


def test_the_prompt_in_training_is_the_one_in_use(parts: SimpleNamespace, loaded: Any) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(parts.decoder)
    bed = train.Bed(transformers.LlamaForCausalLM.from_pretrained(parts.decoder), tokenizer, torch.nn.Identity())
    ids = inputs_for(loaded, a_wave(1.0))["input_ids"][0].tolist()
    audio = loaded.model.config.audio_token_id
    first, last = ids.index(audio), len(ids) - 1 - ids[::-1].index(audio)
    after = bed._ids(prompts.TRANSCRIBE + prompts.BETWEEN)
    assert (ids[:first], ids[last + 1 :]) == (bed.start, [*bed.end, *after])


def run(module: Any, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["train", *map(str, arguments)])
    module.main()


def test_both_stages_learn_resume_and_can_be_built(
    parts: SimpleNamespace, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("--decoder", parts.decoder, "--features", frames, "--width", WIDTH, "--every", 10)
    first, second = tmp_path / "first", tmp_path / "second"
    run(align, monkeypatch, *common, "--out", first, "--steps", 40, "--rate", 0.02, "--tokens", 150)
    log = [json.loads(line) for line in (first / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [10, 20, 30, 40]
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    common = (*common, "--rank", RANK, "--tokens", 150, "--init", first, "--out", second)
    run(train, monkeypatch, *common, "--steps", 10)
    run(train, monkeypatch, *common, "--steps", 20, "--resume")
    log = [json.loads(line) for line in (second / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [10, 20]
    assert log[1]["loss"] < log[0]["loss"]
    best = second / "best.safetensors"
    with safe_open(best, "pt") as file:
        assert file.metadata()["scale"] == "2.0"
    built = build(tmp_path / "model", encoder=parts.encoder, decoder=parts.decoder, adapter=best)
    assert (built / "README.md").is_file()
    run(train, monkeypatch, *common[:-4], "--init", best, "--out", tmp_path / "third", "--steps", 1)
    kept = keeping.weights_of(tmp_path / "third")
    assert kept.keys() == keeping.weights_of(best).keys()


def test_the_aligned_projector_can_be_gone_on_with() -> None:
    """It has the shape of Whisper base and SmolLM2-135M, and lands where that decoder's embeddings lie."""
    given = keeping.weights_of(Path(train.__file__).parent / "aligned.safetensors")
    projector = make_projector(512, SimpleNamespace(hidden_size=576, rms_norm_eps=1e-5))
    projector.load_state_dict({name.removeprefix("projector."): weight for name, weight in given.items()})
    norms = projector(torch.randn(64, 2048)).norm(dim=-1)
    assert 1 < norms.mean().item() < 10  # an embedding's is 3.2


def test_questions_have_true_answers() -> None:
    import random

    rng = random.Random(0)
    asked = {train.question("the cat sat", ["dog", "cat"], rng) for _ in range(500)}
    assert (prompts.TRANSCRIBE, "the cat sat") in asked
    assert ("Is the word dog spoken? Answer yes or no.", "no") in asked
    assert ("Is the word cat spoken? Answer yes or no.", "yes") in asked
    assert ("What is the last word?", "sat") in asked


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [keeping.rate_at(step, 200, 1.0) for step in range(200)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.06
    assert rates[50:] == sorted(rates[50:], reverse=True)


def test_varied_speech_keeps_its_length_and_range() -> None:
    wave = np.concatenate([np.zeros(8000, np.float32), a_wave(2.0), np.zeros(8000, np.float32)])
    varied = speech.vary(wave, 16000, np.random.default_rng(3))
    assert 2.0 / 1.25 <= len(varied) / 16000 <= 2.2 / 0.8  # silence is gone, speed differs
    assert np.abs(varied).max() <= 1
