"""The admin's lists: read only, and of a table that grows each page costs by what it shows, whatever is stored.

PostgreSQL helps with little of that: a count reads the table, a filter without an index does, and under a row-level
security policy it takes rows for so few that it would rather read and sort them all than follow an index to the first.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.core.paginator import Page, Paginator
from django.db import connection, transaction
from django.db.models import BooleanField, ForeignKey, Prefetch, QuerySet
from django.db.models.expressions import RawSQL
from django.http import HttpRequest
from django.utils.functional import cached_property

OF_ORG = "org__id__exact"


def heading(model: Any) -> str:
    """Name a table as a heading does."""
    return str(model._meta.verbose_name_plural).capitalize()


class ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]  # Django's own is no generic when it runs
    """Shows rows and changes none: set-up has its own doors, which check what they are given.

    What a list names of other tables is read by key afterwards, never joined: PostgreSQL may begin a join at the wrong
    end, and read all of the table that is listed.
    """

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # they would count the whole table for each choice
    list_select_related: ClassVar[Any] = ()
    ordering: ClassVar[Any] = ["-id"]
    heavy: Sequence[str] = []  # columns that a list does without
    named: Sequence[str] = []  # further foreign keys whose rows a list shows something of

    class Media:
        css: ClassVar[Any] = {"all": ["tenants/admin.css"]}

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        return [self._shown(name) for name in super().get_list_display(request)]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return [self._shown(name) for name in super().get_fields(request, obj)]

    def _shown(self, name: Any) -> Any:
        field = self._field(name)
        return _in_words(field) if isinstance(field, BooleanField) else name

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer(*self.heavy).prefetch_related(*self._named())

    def _named(self) -> Iterator[Any]:
        """Name the rows that a list shows by their names, without what is heavy about them."""
        for field in filter(None, map(self._field, [*self.list_display, *self.named])):
            if isinstance(field, ForeignKey):
                heavy = getattr(self.admin_site._registry.get(field.related_model), "heavy", ())
                yield Prefetch(field.name, field.related_model._base_manager.defer(*heavy))

    def _field(self, name: Any) -> Any:
        return next((field for field in self.opts.concrete_fields if field.name == name), None)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _in_words(field: Any) -> Callable[[Any], str]:
    """Show a yes or no as a word: Django's red cross looks like trouble, also where no is what it should be."""

    def shown(row: Any) -> str:
        return "yes" if getattr(row, field.name) else "no"

    shown.__name__ = field.name  # by which Django finds the help text
    return admin.display(description=field.verbose_name, ordering=field.name)(shown)


MOST_LISTED = 500


class NewestFirst(ChangeList):
    """A list of the first rows in the order of an index, which no address changes.

    Their ids are read first, without sorting; by these the rows are counted and paged through.
    """

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        rows = super().get_queryset(request, exclude_parameters)
        order = self.get_ordering(request, rows)
        index = next((each.chosen for each in self.filter_specs if isinstance(each, IndexedFilter) and each.chosen), None)
        if index is not None:
            order = list(index.order_of_org if OF_ORG in request.GET else index.order)
        few = bool(self.query) or any(isinstance(each, OfOne) for each in self.filter_specs)
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL enable_sort = {'on' if few else 'off'}")
            ids = list(rows.order_by(*order).values_list("pk", flat=True)[:MOST_LISTED])
            cursor.execute("RESET enable_sort")
        found: Any = self.root_queryset.filter(_among(ids)).order_by(*order)
        found.newest = ids  # for the paginator, which is given this very object
        return found  # type: ignore[no-any-return]

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return list(self.model_admin.get_ordering(request))

    @property
    def look_elsewhere(self) -> str:
        """Say where else to look, after a search that found nothing."""
        ledger: Any = self.model_admin
        return str(ledger.look_elsewhere(self.query.strip())) if self.query and not self.result_count else ""


def _among(ids: Collection[int]) -> RawSQL:
    """Choose rows by their ids, in one parameter: a parameter for each would be another statement for each number."""
    return RawSQL("id = ANY(%s::bigint[])", [list(ids)], BooleanField())


class Newest(Paginator):  # type: ignore[type-arg]  # Django's own is no generic when it runs
    """Pages through the rows that a list has found: counts none, and reads those of one page."""

    object_list: Any

    @cached_property
    def count(self) -> int:
        return len(self.object_list.newest)

    @property
    def cut_short(self) -> bool:
        """Tell whether there are more."""
        return self.count == MOST_LISTED

    def page(self, number: int | str) -> Page[Any]:
        number = self.validate_number(number)
        first = (number - 1) * self.per_page
        ids = self.object_list.newest[first : first + self.per_page]
        return Page(self.object_list.filter(_among(ids)), number, self)


class Ledger(ReadOnly):
    """A table that grows with what customers do. A page of it costs by what is shown, whatever is stored.

    It is listed in the order of an index, newest first, all of it or one org's. ``search_fields`` are looked for as a
    whole, each by an index of its own: a part of a value would be looked for in every row.
    """

    list_max_show_all = 0
    sortable_by = ()
    newest_of_org = ""  # the order that an index gives to one org's rows
    shown_of_org = ""  # what the link to them adds

    def get_changelist(self, request: HttpRequest, **_: Any) -> type[ChangeList]:
        return NewestFirst

    def get_paginator(self, request: HttpRequest, queryset: Any, per_page: int, *more: Any, **named: Any) -> Any:
        if hasattr(queryset, "newest"):
            return Newest(queryset, per_page, *more, **named)
        return super().get_paginator(request, queryset, per_page, *more, **named)

    def get_ordering(self, request: HttpRequest) -> list[Any]:
        return [self.newest_of_org] if self.newest_of_org and OF_ORG in request.GET else list(self.ordering)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        return (queryset.filter(_among(self.find(term))) if term else queryset), False

    def look_elsewhere(self, term: str) -> str:
        """Say where somebody should look who did not find a term here; empty: nowhere."""
        return ""

    def find(self, term: str) -> set[int]:
        """Give the ids of the rows that have a value in one of the fields to search."""
        found: set[int] = set()
        for name in self.search_fields:
            try:
                value = self._field(name).to_python(term)
            except ValidationError:
                continue  # such as a word where an id is kept
            if isinstance(value, int) and abs(value) >= 1 << 63:
                continue  # compared with a number that its type does not hold, a column has no index
            rows = self.model._base_manager.filter(**{name: value})
            found |= set(rows.values_list("pk", flat=True)[:MOST_LISTED])
        return found


class OfOne(admin.SimpleListFilter):
    """Chooses the rows of one row of another table, which leads here; offered is only the way back to all."""

    def ids(self, pk: int) -> Collection[int]:
        """Give the ids of the rows to show."""
        raise NotImplementedError

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        self.model_admin = model_admin
        return [(self.value() or "", f"{self.title} {self.value()}")] if self.value() is not None else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value() or ""
        known = value.isascii() and value.isdigit() and len(value) < 19  # as bigint holds it
        return queryset.filter(_among(self.ids(int(value)) if known else []))


@dataclass(frozen=True, slots=True)
class Indexed:
    """What a partial index holds, in SQL, and its order; in case of one org's rows that of another index, where named."""

    condition: str
    order: Sequence[str]
    of_org: Sequence[str] = ()

    @property
    def order_of_org(self) -> Sequence[str]:
        return self.of_org or self.order


class IndexedFilter(admin.SimpleListFilter):
    """Chooses rows that a partial index holds.

    The condition is written into the statement, as from a parameter PostgreSQL could not tell that the index serves.
    """

    indexes: dict[str, Indexed]  # by what is shown

    @property
    def chosen(self) -> Indexed | None:
        return self.indexes.get(self.value() or "")

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in self.indexes]

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        """Leave out “All” where nothing but a partial index gives one org's rows."""
        offered = super().choices(changelist)
        if OF_ORG in changelist.params and not getattr(changelist.model_admin, "newest_of_org", ""):
            next(offered)
        yield from offered

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(RawSQL(self.chosen.condition, [], BooleanField())) if self.chosen else queryset


def indexed_filter(**indexes: Indexed) -> type[IndexedFilter]:
    """Make a filter of a list by what is shown of each choice, with spaces as underscores."""
    named = {name.replace("_", " "): index for name, index in indexes.items()}
    return type("Filter", (IndexedFilter,), {"title": "state", "parameter_name": "state", "indexes": named})
