"""The ``memcoord`` command: the app, its verbs with their options.

Owns: nothing else; ``memcoord.commands`` does what the verbs say, and has the table of those that
ask a live hypervisor. Each verb imports what it needs when it runs, so that ``--help`` is quick.
The verbs that are to start at once are read by ``memcoord.quick`` first, which knows their options
too; ``memcoord.ending`` has the exit codes. With ``--json`` a verb prints exactly one JSON object
on stdout; errors are one line on stderr.
"""

from typing import Annotated

import typer

from hypervisor.public.errors import ConfigError
from memcoord.commands import columns, completing, run_dir_of, show
from memcoord.commands.control import add_verbs
from memcoord.commands.metrics_verb import metrics
from memcoord.commands.nbd_verb import nbd
from memcoord.commands.options import (
    CachePages,
    Curve,
    Json,
    Replacement,
    RunDirOption,
    Shards,
    TraceColumns,
    TraceFile,
    TraceFormat,
    TraceHex,
    TracePageSize,
)
from memcoord.commands.policy_verbs import add_policy_verbs
from memcoord.commands.result_verbs import add_result_verbs
from memcoord.commands.trace_verbs import add_trace_verbs
from memcoord.commands.vm_verb import vm_app
from memcoord.commands.web_verb import web
from memcoord.quick import EXEC_NAME, EXEC_RAM

app = typer.Typer(name="memcoord", no_args_is_help=True, pretty_exceptions_enable=False)
#: Options of the verbs that run a scenario.
ScenarioFile = Annotated[
    str | None,
    typer.Argument(
        help="A TOML file or a shipped scenario (default: main).",
        autocompletion=completing.scenarios,
    ),
]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME, NAME:KEY=VALUE or FILE.py:CLASS; may be repeated.",
        autocompletion=completing.policies,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the scenario."),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0, max=(1 << 63) - 1, help="The same seed gives the same run (the scenario's)."
    ),
]
Costs = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE", help="A cost set: testbed, kernel-like or a file."),
]
Seeds = Annotated[
    str | None, typer.Option(metavar="N|LIST", help="So many seeds, or these: 1,4,9.")
]
Scale = Annotated[
    float | None, typer.Option(metavar="F", help="A part of its full size, for a look: 0.1.")
]


def _scale_of(text: str) -> float:
    from memcoord.commands.bench import scale_of

    return scale_of(text)


BenchScale = Annotated[
    float | None,
    typer.Option(
        metavar="F|small", parser=_scale_of, help="A part of the full size; small: an eighth."
    ),
]
policy_app = typer.Typer(name="policy", help="Allocation policies.", no_args_is_help=True)
add_policy_verbs(policy_app)
app.add_typer(policy_app)
trace_app = typer.Typer(
    name="trace", help="Traces: your own, and a run for perfetto.", no_args_is_help=True
)
app.add_typer(trace_app)
app.add_typer(vm_app)


def _version(wanted: bool) -> None:
    if wanted:
        import memcoord

        typer.echo(f"memcoord {memcoord.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Coordinate memory between domains on one machine. 'memcoord run' shows it at work."""


@app.command()
def run(
    scenario: ScenarioFile = None,
    policy: Policies = None,
    set_: Changes = None,
    run_dir: RunDirOption = None,
    record: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write the tmem operations here, for tmem-replay."),
    ] = None,
    repeat: Annotated[
        int | None, typer.Option(min=1, help="Run everything N times, interleaved.")
    ] = None,
    seeds: Seeds = None,
    alone: Annotated[
        bool, typer.Option("--alone/--no-alone", help="Also run each domain alone: slowdowns.")
    ] = True,
    scale: Scale = None,
    as_json: Json = False,
) -> None:
    """Run a scenario under one or more policies and compare them."""
    from memcoord.commands.run import RunOptions, run_command

    options = RunOptions(
        policy or (), as_json, run_dir, set_ or (), record, repeat, seeds, alone, scale
    )
    raise typer.Exit(run_command(scenario, options))


@app.command()
def hypervisor(
    config: Annotated[
        str | None,
        typer.Argument(help="A scenario or hypervisor.json (default: a host open to any domain)."),
    ] = None,
    run_dir: RunDirOption = None,
    recover: Annotated[
        str | None,
        typer.Option(metavar="RUN_DIR", help="Instead: let this installation take over there."),
    ] = None,
) -> None:
    """Serve domains that others start, until interrupted: the hypervisor by itself."""
    from memcoord.commands.serve import host_command, recover_command

    if recover is not None:
        if config or run_dir:
            raise ConfigError("--recover", "takes over what is there: no configuration of its own")
        raise typer.Exit(recover_command(recover, typer.echo))
    raise typer.Exit(host_command(config, run_dir, typer.echo))


@app.command("exec", context_settings={"allow_interspersed_args": False})
def exec_(
    program: Annotated[list[str], typer.Argument(help="The program and its arguments.")],
    name: Annotated[str, typer.Option(help="The domain's name.")] = EXEC_NAME,
    ram: Annotated[str, typer.Option(help="What the domain has at first.")] = EXEC_RAM,
    max_: Annotated[
        str | None, typer.Option("--max", help="What it may have at most (default: as --ram).")
    ] = None,
    run_dir: Annotated[
        str | None,
        typer.Option("--run-dir", metavar="DIR", help="Of a running hypervisor to attach to."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Of a hypervisor of its own: RAM and tmem.")
    ] = None,
    swap_dir: Annotated[
        str | None, typer.Option("--swap-dir", metavar="DIR", help="Where the swap file is.")
    ] = None,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="No rights but those given.")] = False,
    read: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="In a sandbox: what it may read.")
    ] = None,
    write: Annotated[list[str] | None, typer.Option(metavar="PATH", help="And write.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="At the end, one JSON object on standard error.")
    ] = False,
) -> None:
    """Run any program in a domain, unmodified, and say what memory it used and waited for."""
    from memcoord.commands.exec_program import Options, exec_command

    given = tuple(read or ()), tuple(write or ())
    options = Options(name, ram, max_, run_dir, memory, swap_dir, sandbox, *given)
    raise typer.Exit(exec_command(program, options, as_json))


@app.command()
def bench(
    which: Annotated[
        str,
        typer.Argument(help=f"{', '.join(completing.BENCHES)}.", autocompletion=completing.benches),
    ],
    as_json: Json = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Interleaved rounds.")] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Keep raw samples here.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="policies, programs, malloc: a look.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="policies: all, in both worlds.")] = False,
    world: Annotated[str | None, typer.Option(help="policies: sim, testbed or both.")] = None,
    scenario: Annotated[list[str] | None, typer.Option(help="policies: only these.")] = None,
    policy: Annotated[list[str] | None, typer.Option(help="policies: these and greedy.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="policies: seeds 1 to N.")] = None,
    scale: BenchScale = None,
    data: Annotated[str | None, typer.Option(help="smartmem: edges for PageRank.")] = None,
    costs: Costs = None,
    markdown: Annotated[
        str | None, typer.Option(metavar="FILE", help="policies: fill the page's table.")
    ] = None,
    kills: Annotated[int | None, typer.Option(min=1, help="chaos: kill domains N times.")] = None,
    hypervisor_kills: Annotated[
        int | None, typer.Option(min=0, help="chaos: kill the hypervisor N times.")
    ] = None,
    soak: Annotated[
        float | None, typer.Option(metavar="HOURS", help="chaos: go on, and look for growth.")
    ] = None,
    records: Annotated[
        int | None, typer.Option(min=1, help="chaos: send N malformed records.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="chaos: of the plan of kills.")] = None,
    qemu: Annotated[
        bool, typer.Option("--qemu", help="mechanisms: the real devices of a virtual machine.")
    ] = False,
) -> None:
    """Measure a grant, a page of tmem, a mechanism, a policy: each beside its rivals."""
    from memcoord.commands.bench import bench as bench_command

    options = {
        "quick": quick,
        "full": full,
        "world": world,
        "scenarios": tuple(scenario or ()),
        "policies": tuple(policy or ()),
        "seeds": seeds,
        "scale": scale,
        "data": data,
        "costs": costs,
        "markdown": markdown,
        "kills": kills,
        "hypervisor_kills": hypervisor_kills,
        "soak": soak,
        "records": records,
        "seed": seed,
        "qemu": qemu,
    }
    given = {name: value for name, value in options.items() if value}
    raise typer.Exit(bench_command(which, as_json, rounds, out, given))


@app.command()
def claims(
    claim: Annotated[
        str | None, typer.Argument(help="One claim, as M6, or those of one work, as M.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fifteen minutes on two cores.")] = False,
    as_json: Json = False,
    markdown: Annotated[
        str | None, typer.Option(metavar="FILE", help="Fill the page's table.")
    ] = None,
) -> None:
    """Judge what the works this builds on claim, each by a run of the benches it needs."""
    from memcoord.commands.claims import claims_command

    raise typer.Exit(claims_command(claim, quick, as_json, markdown))


@app.command()
def sim(
    scenario: ScenarioFile = None,
    policy: Policies = None,
    set_: Changes = None,
    seed: Seed = None,
    seeds: Seeds = None,
    repeat: Annotated[
        int | None, typer.Option(min=1, help="The same as --seeds: a seed repeats exactly.")
    ] = None,
    alone: Annotated[
        bool, typer.Option("--alone/--no-alone", help="Also run each domain alone: slowdowns.")
    ] = True,
    scale: Scale = None,
    costs: Costs = None,
    run_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Keep ticks and decisions here, as run does.")
    ] = None,
    trace: TraceFile = None,
    cache_pages: CachePages = "",
    replacement: Replacement = "lru",
    mrc: Curve = False,
    shards: Shards = 0.0,
    format_: TraceFormat = "",
    columns: TraceColumns = "",
    page_size: TracePageSize = "",
    hexadecimal: TraceHex = False,
    as_json: Json = False,
) -> None:
    """Run a scenario in virtual time, or count one trace's misses."""
    if trace is not None:
        of_scenario = (seed, seeds, repeat, costs)
        if scenario or policy or set_ or any(one is not None for one in of_scenario):
            raise ConfigError("--trace", "takes no scenario, nor what is set of one")
        from memcoord.commands.trace import trace_command
        from memcoord.commands.trace_form import form_of

        done = trace_command(
            trace,
            cache_pages,
            form=form_of(format_, columns, page_size, hexadecimal),
            as_json=as_json,
            replacement=replacement,
            mrc=mrc,
            shards=shards,
            show=typer.echo,
        )
        raise typer.Exit(done)
    of_trace = (cache_pages, mrc, shards, format_, columns, page_size, hexadecimal)
    if any(of_trace) or replacement != "lru":
        raise ConfigError("--trace", "which file? --cache-pages and the like are of a trace")
    from memcoord.commands.simulate import SimulateOptions, simulate_command

    own = policy or (), as_json, set_ or (), seed, seeds, repeat, alone, scale, costs or "", run_dir
    options = SimulateOptions(*own)
    raise typer.Exit(simulate_command(scenario, options))


@app.command()
def calibrate(
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write it here (default: costs.toml).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure this machine and write a cost set for sim --costs."""
    from memcoord.commands.calibrate import calibrate_command

    show(as_json, *calibrate_command(out))


@app.command()
def sweep(
    grid: Annotated[str, typer.Argument(help="A TOML file: what to cross with what.")],
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Results (default: GRID.sweep).")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes (default: one per CPU).")] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="tcp://HOST:PORT|local", help="Run on this Dask cluster.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Cross policies, parameters, scenarios and seeds; resumes where it was stopped."""
    from memcoord.commands.sweep import sweep_command

    raise typer.Exit(sweep_command(grid, out, workers, dask, as_json))


@app.command("ls")
def list_(as_json: Json = False) -> None:
    """List runs and the domains of those that are live."""
    from memcoord.commands.runs import list_runs, run_lines

    found = list_runs()
    show(as_json, {"runs": found}, run_lines(found, columns()))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Tell what this machine can do and what that means for the results."""
    from memcoord.commands.doctor import diagnose, lines, to_json

    checks = diagnose()
    show(as_json, to_json(checks), lines(checks, columns()))


@app.command()
def clean(
    run_dir: RunDirOption = None,
    all_: Annotated[bool, typer.Option("--all", help="Remove ended run directories too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="End live runs first.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what dead runs left; only what their manifests name."""
    from memcoord.commands.clean import clean as clean_runs
    from memcoord.commands.clean import lines

    done = clean_runs(run_dir=run_dir, all_runs=all_, force=force)
    show(as_json, done, lines(done))


@app.command()
def top(
    run: Annotated[
        str | None,
        typer.Argument(
            help="A run's name or directory (default: the newest).",
            autocompletion=completing.runs,
        ),
    ] = None,
    batch: Annotated[bool, typer.Option("-b", "--batch", help="Lines, as into a pipe.")] = False,
    times: Annotated[
        int | None, typer.Option("-n", "--times", min=0, help="So many looks (0: without end).")
    ] = None,
    delay_s: Annotated[
        float, typer.Option("-d", "--delay", metavar="S", min=0.1, help="Seconds between looks.")
    ] = 0.5,
    sort: Annotated[str, typer.Option(help="starved, ram, tmem or name.")] = "starved",
    domain: Annotated[str, typer.Option(metavar="VM", help="Open this domain.")] = "",
    svg: Annotated[str, typer.Option(metavar="FILE", help="One look, as a picture.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a look.")] = False,
) -> None:
    """Watch a run: who has how much memory, who is starved, what the policy does."""
    from memcoord.commands.top import TopOptions, top_command

    options = TopOptions(batch, times, delay_s, sort, domain, as_json, svg)
    raise typer.Exit(top_command(run, options))


app.command()(metrics)


@app.command()
def why(
    vm: str,
    each: Annotated[
        bool, typer.Option("--each", help="Every decision a line, with what the policy saw.")
    ] = False,
    run_dir: RunDirOption = None,
    as_json: Json = False,
) -> None:
    """Tell which rules led to a domain's targets, also of a run that has ended."""
    from memcoord.commands.why import UNBROKEN, why_command

    show(as_json, *why_command(vm, run_dir, each=each, width=columns(pipe=UNBROKEN)))


app.command()(nbd)
app.command()(web)
add_verbs(app)
add_result_verbs(app, trace_app)
add_trace_verbs(trace_app)


@app.command("tmem-list")
def tmem_list(
    long: Annotated[bool, typer.Option("-l", "--long", help="Every counter, every pool.")] = False,
    run_dir: RunDirOption = None,
    as_json: Json = False,
) -> None:
    """Show what each domain has in tmem and how it fares; --json has every counter."""
    from memcoord.commands.tmem_list import collect, lines

    found = collect(run_dir_of(run_dir), with_pools=long or as_json)
    show(as_json, found, lines(found, long=long))


@app.command("tmem-replay")
def tmem_replay(
    file: Annotated[str | None, typer.Argument(help="A stream of rows (default: stdin).")] = None,
) -> None:
    """Replay a stream of tmem operations, one JSON array per line, and print what each answers."""
    from memcoord.commands.tmem_replay import replay_command

    raise typer.Exit(replay_command(file))
