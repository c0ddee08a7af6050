"""Which languages run in which image: what the app found at start, and how a request finds its way in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from executor_service.errors import ImageNotFound, LanguageNotFound
from executor_service.languages import Language
from executor_service.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One language in one image. `limits` are the image's and the language's own defaults, by name."""

    language: Language
    image: str
    version: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    stateful: bool = False
    """Whether the image has a kernel for it."""

    @property
    def armed(self) -> bool:
        """Whether the image's warm interpreter becomes the program."""
        return self.language.name == "python"

    def defaults(self, default: Limits, ceiling: Limits) -> Limits:
        """The service's default limits with this offer's own in place, none over its ceiling."""
        own = {
            each.name: type(getattr(ceiling, each.name))(
                min(self.limits[each.name], getattr(ceiling, each.name))
            )
            for each in fields(Limits)
            if each.name in self.limits
        }
        return replace(default, **own)


class Catalog:
    """All offers, in the order in which images are preferred (the default image first)."""

    def __init__(self, offers: Sequence[Offer], images: Sequence[str] | None = None) -> None:
        self._offers = tuple(offers)
        found = dict.fromkeys(offer.image for offer in offers)
        self._images = tuple(images) if images is not None else tuple(found)

    def __repr__(self) -> str:
        return f"<Catalog {', '.join(f'{each.image}/{each.language.name}' for each in self._offers)}>"

    @property
    def offers(self) -> tuple[Offer, ...]:
        return self._offers

    @property
    def images(self) -> tuple[str, ...]:
        return self._images

    def find(self, language: str, image: str | None = None) -> Offer:
        """The offer for a language by its name or alias, in `image` or the first that has it.

        Raises:
            ImageNotFound: there is no such image.
            LanguageNotFound: it is not there, or not in that image.
        """
        if image is not None and image not in self._images:
            raise ImageNotFound(f"there is no image {image[:80]!r}; there are {', '.join(self._images)}")
        wanted = language.lower()
        here = [offer for offer in self._offers if image in (None, offer.image)]
        for offer in here:
            if wanted == offer.language.name or wanted in offer.language.aliases:
                return offer
        names = ", ".join(dict.fromkeys(offer.language.name for offer in here)) or "none"
        raise LanguageNotFound(f"no language {language[:80]!r} here; there are {names}")

    def stateful(self, language: str, image: str | None = None) -> Offer:
        """As `find`, for a session.

        Raises:
            ImageNotFound, LanguageNotFound: as `find`; also for a language that keeps no state.
        """
        offer = self.find(language, image)
        if not offer.stateful:
            names = ", ".join(dict.fromkeys(o.language.name for o in self._offers if o.stateful))
            raise LanguageNotFound(
                f"{offer.language.name} keeps no state; sessions may be in {names or 'none'}"
            )
        return offer

    def kernels(self, offer: Offer) -> tuple[Language, ...]:
        """The languages that a session of `offer` may keep state in beside its own."""
        return tuple(
            each.language
            for each in self._offers
            if each.stateful and each.image == offer.image and each.language is not offer.language
        )
