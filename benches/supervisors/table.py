"""Makes the README's table out of a raw file: medians, the aims as ratios to the peers of the same run, met or missed."""

from statistics import median

BEGIN, END = "<!-- measures: supervisors, made by benches/supervisors/run -->", "<!-- end of measures: supervisors -->"
COLUMNS = ["sandkeep", "s6", "runit", "supervisord", "pm2"]
SHAPES = ["wrapper", "background", "setsid", "orphan"]


class Raw:
    """The values of one run."""

    def __init__(self, path):
        self.path, self.head, self.rows = path, {}, []
        for line in open(path):
            if line.startswith("# "):
                key, _, value = line[2:].strip().partition(": ")
                self.head[key] = value
            elif line.strip():
                measure, *pairs = line.split()
                self.rows.append({"measure": measure} | dict(pair.split("=", 1) for pair in pairs))

    def of(self, measure, key, **where):
        """All values of one key, as they came."""
        where["measure"] = measure
        return [row[key] for row in self.rows if all(row.get(k) == str(v) for k, v in where.items())]

    def numbers(self, measure, key, **where):
        return sorted(float(value) for value in self.of(measure, key, **where) if value != "none")

    def median(self, measure, key, **where):
        values = self.numbers(measure, key, **where)
        return median(values) if values else None


def p99(values):
    return values[min(len(values) - 1, int(len(values) * 0.99))]


def least(*values):
    return min((value for value in values if value is not None), default=None)


def shown(value, unit=""):
    if value is None:
        return "–"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}{unit}"


def met(is_met, text):
    return f"{text}: met" if is_met else f"{text}: **missed**"


def ratio(ours, theirs, aim, of, at_least=False):
    """The verdict on an aim that is a ratio."""
    if ours is None or not theirs:
        return "not measured"
    value = ours / theirs
    good = value >= aim if at_least else value <= aim
    return met(good, f"{value:.2f} × {of}, {'at least' if at_least else 'at most'} {aim:g}")


def limit(ours, aim, unit):
    return "not measured" if ours is None else met(ours < aim, f"under {aim:g} {unit}")


def rows(raw):
    """(what, cells by peer, verdict)"""
    yield from respawn(raw)
    yield from fleets(raw)
    yield idle(raw)
    yield from logs(raw)
    yield leftovers(raw)
    yield readyz(raw)


def respawn(raw):
    values = {peer: raw.numbers("respawn", "ms", peer=peer) for peer in [*COLUMNS, "sandkeep-sh"]}
    cells = {peer: f"{shown(median(v))} / {shown(p99(v))}" for peer, v in values.items() if v}
    if "sandkeep-sh" in cells:
        cells["sandkeep"] += f" (through `sh`, as theirs: {cells['sandkeep-sh']})"
    middle = {peer: median(v) for peer, v in values.items() if v}
    best = least(middle.get("s6"), middle.get("runit"))
    yield "`kill -9` → new process runs, ms, p50 / p99", cells, ratio(middle.get("sandkeep"), best, 1.0, "the better of s6 and runit")


def fleets(raw):
    def row(what, units, key, unit, verdict, scale=1):
        values = {peer: raw.median("fleet", key, units=units, peer=peer) for peer in [*COLUMNS, "s6-nolog"]}
        values = {peer: value and value / scale for peer, value in values.items()}
        cells = {peer: shown(values[peer]) for peer in COLUMNS}
        if key != "pss_kb" and values["s6-nolog"]:
            cells["s6"] += f" (without loggers {shown(values['s6-nolog'])})"
            values["s6"] = least(values["s6"], values["s6-nolog"])
        return f"{what}, {unit}", cells, verdict(values["sandkeep"], values["s6"])

    for units, aim in ((100, 0.5), (1000, 1.0)):
        yield row(f"{units:,} units up", units, "up_ms", "ms", lambda ours, theirs: ratio(ours, theirs, aim, "s6"))
    for units, aim in ((5, 4), (1000, 10)):
        yield row(f"memory (PSS) with {units:,} units, every log captured", units, "pss_kb", "MB", lambda ours, _: limit(ours, aim, "MB"), 1000)
    yield row("clean stop of 100 units, until the last process has ended", 100, "stop_all_ms", "ms", lambda ours, theirs: ratio(ours, theirs, 1.0, "s6"))


def idle(raw):
    cells, found = {}, {}
    for row in raw.rows:
        if row["measure"] == "idle":
            found[row["peer"]] = row
            cells[row["peer"]] = f"{row['switches']} / {row['ticks']} ({shown(float(row['cpu_ms']))} ms)"
    ours = found.get("sandkeep")
    what = "an idle minute with 100 units: context switches / CPU ticks (CPU time)"
    if ours and (float(ours["seconds"]), ours["units"]) != (60, "100"):
        what = f"{float(ours['seconds']):g} idle s with {ours['units']} units: context switches / CPU ticks (CPU time)"
    return what, cells, "not measured" if not ours else met((ours["switches"], ours["ticks"]) == ("0", "0"), "none of either")


def logs(raw):
    rates = {peer: raw.median("log", "mb_per_s", peer=peer) for peer in COLUMNS}
    cpu = {peer: raw.median("log", "cpu_s", peer=peer) for peer in COLUMNS}
    whole = {}
    for peer in COLUMNS:
        checks = raw.of("log", "check", peer=peer)
        if checks:
            whole[peer] = all(",lost=0,repeated_or_reordered=0,garbled=0" in check for check in checks)
    size = next(iter(raw.of("log", "mib")), "1024")
    what = "1 GiB of 100-byte lines from one unit" if size == "1024" else f"{size} MiB of 100-byte lines from one unit"
    yield f"{what}, MB/s", {p: shown(v) for p, v in rates.items()}, ratio(rates["sandkeep"], rates["s6"], 1.0, "s6-log", at_least=True)
    yield "its CPU time in the supervisor and its logger, s", {p: shown(v) for p, v in cpu.items()}, ratio(cpu["sandkeep"], cpu["s6"], 1.0, "s6-log")
    cells = {peer: "none" if good else "**some**" for peer, good in whole.items()}
    yield "lines lost, repeated or out of order", cells, met(whole["sandkeep"], "none") if "sandkeep" in whole else "not measured"


def leftovers(raw):
    cells, ours = {}, None
    for row in raw.rows:
        if row["measure"] == "leftovers":
            left = [shape for shape in SHAPES if row[shape] != "clean"]
            cells[row["peer"]] = f"left: {', '.join(left)}" if left else "nothing left"
            ours = not left if row["peer"] == "sandkeep" else ours
    return "after a clean stop: wrapper, background child, `setsid` grandchild, double-forked orphan", cells, (
        "not measured" if ours is None else met(ours, "all four clean")
    )


def readyz(raw):
    values = raw.numbers("readyz", "ms")
    cells = {"sandkeep": f"{shown(median(values))} / {shown(p99(values))}"} if values else {}
    return "`GET /readyz` while 4 units flood their logs, ms, p50 / p99", cells, limit(p99(values) if values else None, 2, "ms")


def made(path):
    """The table, and what it was measured on."""
    raw = Raw(path)
    name = path.name
    lines = [
        f"Measured on {raw.head.get('date')}: {raw.head.get('machine')}; {raw.head.get('system')}; {raw.head.get('peers')}. Medians of the"
        f" rounds; every value is in [`benches/results/{name}`](benches/results/{name}), and `benches/supervisors/run` measures anew.",
        "",
        f"| | {' | '.join(COLUMNS)} | aim |",
        "| --- |" + " --- |" * (len(COLUMNS) + 1),
    ]
    for what, cells, verdict in rows(raw):
        lines.append(f"| {what} | {' | '.join(cells.get(peer, '–') for peer in COLUMNS)} | {verdict} |")
    return "\n".join(lines)


def update(readme, path):
    """Puts the table between the two comments of the README."""
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"error: {readme} has no lines\n{BEGIN}\n{END}")
    readme.write_text(f"{before}{BEGIN}\n\n{made(path)}\n\n{END}{after}")
