"""The hooks: every way into planproof, for its own parts and for a stranger's package alike.

A plugin is a Python module or object that a distribution names in the entry-point group `planproof`:

    [project.entry-points.planproof]
    acme = "acme_planproof"

and that implements any of the functions below, each marked with `hookimpl`:

    import pluggy
    hookimpl = pluggy.HookimplMarker("planproof")

    @hookimpl
    def planproof_rules():
        return [MyRule()]

All hooks are synchronous. A plugin that cannot be imported or that raises is reported (`PluginFailure`) and hurts
nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from optimizer.errors import InputError
from optimizer.rule import Rule

if TYPE_CHECKING:
    from optimizer.advice import Advice, Finding, Rejection, Report
    from optimizer.candidate import Candidate
    from optimizer.catalog import Catalog
    from optimizer.clock import Deadline
    from optimizer.pipeline import Options
    from optimizer.plan import Plan
    from optimizer.query import Query
    from optimizer.services import Services
    from optimizer.shadow.port import ShadowDatabase
    from optimizer.shadow.registry import ShadowRecord

PROJECT = "planproof"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

_log = logging.getLogger(PROJECT)


class HookSpecs:
    """The specifications, in the order in which the flow calls them."""

    @hookspec
    def planproof_commands(self, cli: Any) -> None:
        """Add commands to the command line.

        Parameters:
            cli: the `typer.Typer` application.
        """

    @hookspec(firstresult=True)
    def planproof_open_shadow(self, record: ShadowRecord, services: Services) -> ShadowDatabase | None:
        """Open a registered shadow.

        Parameters:
            record: its entry in the registry; `record.kind` says whether it is yours.
            services: the embedded clusters and settings.

        Returns: the shadow, or None to leave it to another plugin.
        """

    @hookspec
    def planproof_rules(self) -> Iterable[Rule]:  # type: ignore[empty-body]
        """Return the rules this plugin brings; called once at start."""

    @hookspec
    def planproof_propose(  # type: ignore[empty-body]
        self,
        query: Query,
        catalog: Catalog,
        plan: Plan,
        options: Options,
        found: Sequence[Advice],
        feedback: Sequence[Rejection],
        memory: MutableMapping[str, Any],
        deadline: Deadline,
    ) -> Iterable[Candidate | Finding | Rejection]:
        """Propose candidates for one query, after the rules had their turn.

        Called once, and once more when something proposed was bad. Every candidate is planned, and every rewrite goes
        through the gate, as those of rules do.

        Parameters:
            query: what was asked about.
            catalog: of its shadow.
            plan: of the query as it stands.
            options: of the request; `options.llm` says whether a language model may be asked.
            found: the advice so far, best first.
            feedback: what was wrong with your own candidates; empty the first time.
            memory: yours for this request, kept from the first call to the second.
            deadline: to answer by; the time that the gate needs comes after it.

        Returns: candidates; findings for the report, where those of the second call replace those of the first;
            rejections, for what could not even become a candidate.

        Errors: `InputError` when the user asked for what cannot be; anything else is reported as the plugin's failure.
        """

    @hookspec
    def planproof_cache_key(self) -> str:  # type: ignore[empty-body]
        """Name what your answers depend on beside the request, the shadow, planproof's settings and your source text.

        Called once at start. Reports that were cached under another key are not found again, so return, for example,
        the model and the endpoint that you ask; never a secret.
        """

    @hookspec(firstresult=True)
    def planproof_render(self, report: Report, format: str) -> str | None:
        """Print a report.

        Parameters:
            report: what `optimize()` found.
            format: `text`, `markdown`, or a name of your own.

        Returns: the text, or None when the format is not yours.
        """


@dataclass(frozen=True, slots=True)
class PluginFailure:
    """A plugin that could not be loaded or that raised.

    Parameters:
        plugin: its entry-point name.
        where: `import` or the hook's name.
        detail: one line: the exception's class and message.
    """

    plugin: str
    where: str
    detail: str


class Plugins:
    """The loaded plugins.

    Parameters:
        entries: entry points to load; by default those of the group `planproof` of all installed distributions.
    """

    def __init__(self, entries: Iterable[EntryPoint] | None = None) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(HookSpecs)
        self.failures: list[PluginFailure] = []
        for entry in entry_points(group=PROJECT) if entries is None else entries:
            self._load(entry)

    def _load(self, entry: EntryPoint) -> None:
        try:
            plugin = entry.load()
            self._manager.register(plugin, name=entry.name)
            self._manager.check_pending()
        except Exception as error:  # noqa: BLE001 - a stranger's code: whatever it raises is reported, never fatal
            if self._manager.has_plugin(entry.name):
                self._manager.unregister(name=entry.name)
            self._fail(entry.name, "import", error)

    def _fail(self, plugin: str, where: str, error: BaseException) -> PluginFailure:
        failure = _failure(plugin, where, error)
        self.failures.append(failure)
        return failure

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the loaded plugins."""
        return tuple(name for name, _ in self._manager.list_name_plugin())

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the modules that the loaded plugins are, or whose objects they are."""
        plugins = (plugin for _, plugin in self._manager.list_name_plugin())
        return tuple(p.__name__ if isinstance(p, ModuleType) else type(p).__module__ for p in plugins)

    def collect(self, hook: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Call a hook plugin by plugin, so that one that raises hurts no other.

        Parameters:
            hook: name of the hook.
            arguments: what the hook is given.

        Yields: the plugin's name and its result, for results that are not None; failures go to `failures`.
        """
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            try:
                result = _call(implementation, arguments)
            except Exception as error:  # noqa: BLE001 - as above
                self._fail(implementation.plugin_name, hook, error)
                continue
            if result is not None:
                yield implementation.plugin_name, result

    def implementing(self, hook: str) -> tuple[str, ...]:
        """Names of the plugins that implement a hook, in the order in which they are called."""
        return tuple(i.plugin_name for i in getattr(self._manager.hook, hook).get_hookimpls())

    def ask(self, plugin: str, hook: str, **arguments: Any) -> Any:
        """Call one plugin's implementation of a hook for one request.

        Parameters:
            plugin: its name.
            hook: name of the hook.
            arguments: what the hook is given.

        Returns: its result, or the `PluginFailure`, which belongs to this request and not to `failures`.

        Errors: `InputError` raised by the plugin, which is for the user.
        """
        implementations = getattr(self._manager.hook, hook).get_hookimpls()
        try:
            return _call(next(i for i in implementations if i.plugin_name == plugin), arguments)
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            return _failure(plugin, hook, error)

    def first(self, hook: str, **arguments: Any) -> Any:
        """Call a first-result hook; errors of the plugin that answers are the caller's.

        Returns: the first result that is not None, else None.
        """
        return getattr(self._manager.hook, hook)(**arguments)

    def rules(self) -> tuple[Rule, ...]:
        """Return all rules, ordered by code; of two rules with one code the later is refused and reported."""
        found: dict[str, Rule] = {}
        for plugin, rules in self.collect("planproof_rules"):
            for rule in _checked_rules(plugin, rules, self):
                if rule.code in found:
                    self._fail(plugin, "planproof_rules", ValueError(f"the rule code {rule.code} is already taken"))
                else:
                    found[rule.code] = rule
        return tuple(found[code] for code in sorted(found))


def _call(implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
    """Call with the arguments that the implementation wants; a generator is run to its end."""
    result = implementation.function(**{name: arguments[name] for name in implementation.argnames})
    return tuple(result) if isinstance(result, Iterator) else result


def _failure(plugin: str, where: str, error: BaseException) -> PluginFailure:
    kind = type(error).__name__
    failure = PluginFailure(plugin, where, f"{kind}: {error}".splitlines()[0])
    # Its message may repeat SQL or secrets, which no log may hold: only the report and a person's terminal show it.
    shown = f"plugin {plugin} failed in {where}: {failure.detail}"
    _log.warning("plugin %s failed in %s: %s", plugin, where, kind, extra={"on_terminal": shown})
    return failure


def _checked_rules(plugin: str, rules: Sequence[Any], plugins: Plugins) -> Iterator[Rule]:
    for rule in rules:
        if isinstance(rule, Rule):
            yield rule
        else:
            plugins._fail(plugin, "planproof_rules", TypeError(f"{rule!r} is not an optimizer.rule.Rule"))
