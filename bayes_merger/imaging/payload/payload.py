"""What is drawn: a payload is a prompt and the numbers that go with it, in AUTOMATIC1111's words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from bayes_merger.errors import ConfigError, printable
from bayes_merger.imaging.payload.hires import Hires
from bayes_merger.imaging.payload.values import FIELDS, check_name, checked
from bayes_merger.imaging.pipelines.schedulers import AUTOMATIC
from bayes_merger.imaging.prompts.prompt import check_prompt


@dataclass(frozen=True)
class Payload:
    """One prompt and how its pictures are drawn.

    Attributes:
        name: what the payload is called, unique in a study.
        prompt: in A1111's syntax, may hold `__wildcards__`.
        negative_prompt: likewise.
        steps: of the sampler, 1 to 1000.
        cfg_scale: guidance, 1 (none) to 100.
        width: pixels, a multiple of 8.
        height: pixels, a multiple of 8.
        sampler_name: A1111's name, see `imaging.samplers`.
        scheduler: A1111's schedule type.
        seed: of the first picture, the next has `seed + 1`; -1 draws one per study. With variations all have it.
        batch_size: pictures of this payload per candidate.
        clip_skip: A1111's "Clip skip": 1 takes the text encoder's last layer, 2 the one before.
        importance: how much this payload counts in the mean; `score_weight` in payload files works too.
        rng: whose noise it is, see `imaging.noise`: `cpu` or `nv`.
        emphasis: what weights of words do: `Original` keeps the mean, `No norm` does not, `Ignore` leaves them out.
        subseed: of the first picture's variation, the next has `subseed + 1`; -1 draws one per study.
        subseed_strength: 0 is no variation, 1 is the subseed's noise alone.
        eta_noise_seed_delta: what the seed of the noise of later steps is above `seed`; 0 goes on with the same.
        hires: the second, larger pass, where there is one.
        passed_on: of a payload that a web UI draws, the request's other fields as they are; None: it is drawn here.
        prompts: after `resolve`, one per picture.
        negative_prompts: after `resolve`, one per picture.
        seeds: after `resolve`, one per picture.
        subseeds: after `resolve`, one per picture where there are variations.
    """

    name: str
    prompt: str
    negative_prompt: str = ""
    steps: int = 20
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    sampler_name: str = "Euler a"
    scheduler: str = AUTOMATIC
    seed: int = -1
    batch_size: int = 1
    clip_skip: int = 1
    importance: float = 1.0
    rng: str = "cpu"
    emphasis: str = "Original"
    subseed: int = -1
    subseed_strength: float = 0.0
    eta_noise_seed_delta: int = 0
    hires: Hires | None = None
    passed_on: Mapping[str, Any] | None = field(default=None, hash=False)
    prompts: tuple[str, ...] = ()
    negative_prompts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    subseeds: tuple[int, ...] = ()

    @property
    def bare(self) -> Payload:
        """What all pictures have in common that are drawn alike: no name, no words, no seeds."""
        hires = self.hires and replace(self.hires, prompt="", negative_prompt="", prompts=(), negative_prompts=())
        return replace(self, name="", prompt="", negative_prompt="", seed=0, importance=1.0, subseed=0, batch_size=1,
                       hires=hires, prompts=(), negative_prompts=(), seeds=(), subseeds=())  # fmt: skip

    def picked(self, places: Sequence[int]) -> Payload:
        """The same payload with some of its pictures, after `resolve`."""

        def of(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[place] for place in places) if values else ()

        hires = self.hires and replace(
            self.hires, prompts=of(self.hires.prompts), negative_prompts=of(self.hires.negative_prompts)
        )
        return replace(self, batch_size=len(places), hires=hires, prompts=of(self.prompts), seeds=of(self.seeds),
                       negative_prompts=of(self.negative_prompts), subseeds=of(self.subseeds))  # fmt: skip

    def pictures_of_prompts(self) -> list[list[int]]:
        """The places of the pictures of each of its prompts, after `resolve`.

        Prompts differ where wildcards do, be it in what is not to be seen or in the second pass.
        """
        second = [texts for texts in self.second_prompts() if texts]
        found: dict[tuple[str, ...], list[int]] = {}
        for place, words in enumerate(zip(self.prompts, self.negative_prompts, *second, strict=True)):
            found.setdefault(words, []).append(place)
        return list(found.values())

    def each_prompt(self, count: int) -> Payload:
        """The same payload with so many pictures of each of its prompts, after `resolve`.

        Those that it has come first, and then pictures with the seeds that follow.

        Raises:
            ConfigError: they would be more pictures than a payload may have.
        """
        places: list[int] = []
        added: list[bool] = []
        prompts = self.pictures_of_prompts()
        for own in prompts:
            known = own[:count]
            missing = count - len(known)
            places += known + known[:1] * missing
            added += [False] * len(known) + [True] * missing
        if len(places) > (most := FIELDS["batch_size"].high):
            raise ConfigError(
                f"{count} pictures of each of its {len(prompts)} prompts are {len(places)}; {most} is the most"
            )
        further = [number if new else 0 for number, new in zip(accumulate(added), added, strict=True)]
        picked = self.picked(places)

        def beyond(values: tuple[int, ...], last: int) -> tuple[int, ...]:
            return tuple(last + more if more else value for value, more in zip(values, further, strict=False))

        varied = bool(self.subseeds)  # which then have one seed
        return replace(
            picked,
            seeds=picked.seeds if varied else beyond(picked.seeds, max(self.seeds)),
            subseeds=beyond(picked.subseeds, max(self.subseeds)) if varied else (),
        )

    @property
    def all_steps(self) -> int:
        """Steps of all passes over a picture."""
        return self.steps + (self.hires.steps if self.hires else 0)

    def enlarged(self) -> Payload:
        """The payload of the second pass alone, after `resolve`; its steps are those of the whole schedule.

        It is for a payload that has a second pass.
        """
        assert self.hires is not None
        hires, (prompts, negatives) = self.hires, self.second_prompts()
        return replace(self, width=hires.width, height=hires.height, steps=hires.schedule_steps,
                       sampler_name=hires.sampler_name, scheduler=hires.scheduler, cfg_scale=hires.cfg_scale,
                       prompts=prompts, negative_prompts=negatives, hires=None)  # fmt: skip

    def second_prompts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The words of the second pass, and those that are not to be: of each picture, after `resolve`."""
        if self.hires is None:
            return (), ()
        return self.hires.prompts or self.prompts, self.hires.negative_prompts or self.negative_prompts

    def check(self) -> None:
        """Check the words of all pictures, which wildcards may have put in.

        Raises:
            ConfigError: a prompt that cannot be drawn; what a web UI draws is its own business.
        """
        if self.passed_on is not None:
            for words in {*self.prompts, *self.negative_prompts}:
                checked("prompt", words)
            return
        second = self.second_prompts()
        for words in {*self.prompts, *second[0]}:
            check_prompt(checked("prompt", words))
        for words in {*self.negative_prompts, *second[1]}:
            check_prompt(checked("negative_prompt", words), negative=True)

    def to_json(self) -> dict[str, Any]:
        """As plain data; `from_json` returns an equal payload. What older studies do not have is left out at rest."""
        values = dataclasses.asdict(self)
        kept = {key: value for key, value in values.items() if key not in _LATER or value != _LATER[key]}
        return json.loads(json.dumps(kept))  # type: ignore[no-any-return]  # tuples are lists

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Payload:
        """The payload that `to_json` wrote, resolved.

        Raises:
            ConfigError: it is no such payload; studies are sent by others, too.
        """
        try:
            check_name(data["name"])
            drawn: dict[str, Any] = {key: tuple(data[key]) for key in ("prompts", "negative_prompts", "seeds")}
            drawn |= {"subseeds": tuple(data["subseeds"])} if data.get("subseeds") else {}
            read: dict[str, Any] = {key: checked(key, data[key]) for key in FIELDS if key in data}
            if not all(len(values) == read["batch_size"] for values in drawn.values()):
                raise ConfigError("it does not have as many prompts and seeds as pictures")
            for field, values in drawn.items():
                for value in values:
                    checked(field, value)
            hires = Hires.from_json(data["hires"], read["batch_size"]) if data.get("hires") else None
            passed_on = data.get("passed_on")
            if not isinstance(passed_on, Mapping | None):
                raise ConfigError("passed_on is no table")
            return cls(name=data["name"], **read, **drawn, hires=hires, passed_on=passed_on)
        except (ConfigError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"a payload of the study is damaged: {printable(str(error))}") from error


_LATER = {
    one.name: one.default
    for one in dataclasses.fields(Payload)
    if one.name
    in ("rng", "emphasis", "subseed", "subseed_strength", "eta_noise_seed_delta", "hires", "passed_on", "subseeds")
}
