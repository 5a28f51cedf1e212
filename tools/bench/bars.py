"""Ratios of a side-by-side run as bars: one bar a row, its 95 % interval, 1 = as good as the best peer, the goal where there is one."""
from xml.sax.saxutils import escape

LEFT, BAR, ROW, RIGHT = 230, 460, 20, 230
AHEAD, BEHIND = "#2a7f62", "#b5523b"


def svg(host, rows):
    rows = [r for r in rows if "ratio" in r]
    groups = []
    for r in rows:
        if not groups or groups[-1][0] != r["part"]:
            groups.append((r["part"], []))
        groups[-1][1].append(r)
    most = max([1.2] + [max(min(r["ratio"]["high"], 1.5 * r["ratio"]["median"]), r.get("goal", 0)) for r in rows])
    step = next(s for s in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100) if most / s <= 12)
    most = (most // step + 1) * step
    x = lambda ratio: LEFT + BAR * min(ratio, most) / most
    height = 96 + sum(30 + ROW * len(g) for _, g in groups)
    marks, labels, body = [], [], []

    def label(at, y, words, anchor="start", style=""):
        labels.append(f'<text x="{at:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(words)}</text>')

    bold = ' font-weight="bold"'
    label(16, 24, "KVT beside its peers: how many times better (1 = as good as the best peer; longer is better)", style=bold)
    label(16, 42, f"{host['processor']}, {host['threads']} threads; " + ", ".join(host["versions"]), style=' font-size="10"')
    y = 62
    for part, group in groups:
        label(16, y + 14, part, style=bold)
        y += 22
        top = y
        for r in group:
            ratio, d = r["ratio"], r["digits"]
            colour = AHEAD if ratio["median"] >= 1 else BEHIND
            label(LEFT - 8, y + 13, f"{r['work']}, {r['metric']}", "end")
            body.append(f'<rect x="{LEFT}" y="{y + 3}" width="{x(ratio["median"]) - LEFT:.1f}" height="{ROW - 6}" fill="{colour}"/>')
            body.append(f'<path d="M{x(ratio["low"]):.1f} {y + ROW / 2}H{x(ratio["high"]):.1f}" stroke="#222" stroke-width="2"/>')
            if "goal" in r:
                body.append(f'<path d="M{x(r["goal"]):.1f} {y + 1}V{y + ROW - 1}" stroke="#d08a00" stroke-width="3"/>')
            own, peer = r["engines"]["KVT"]["median"], r["engines"][r["peer"]]["median"]
            label(LEFT + BAR + 8, y + 13, f"{ratio['median']:.2f} ({own:.{d}f}; {r['peer']} {peer:.{d}f})", style=' font-size="10"')
            y += ROW
        for i in range(int(most / step) + 1):
            marks.append(f'<path d="M{x(i * step):.1f} {top}V{y}" stroke="#ddd"/>')
        body.append(f'<path d="M{x(1):.1f} {top}V{y}" stroke="#222" stroke-dasharray="3 2"/>')
        y += 8
    for i in range(int(most / step) + 1):
        label(x(i * step), y + 14, f"{i * step:g}", "middle")
    label(16, y + 14, "black line: 95 % interval; orange: goal", style=' font-size="10"')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + BAR + RIGHT} {height}" font-family="sans-serif" font-size="12" fill="#222">\n'
            f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(marks + body + labels) + "\n</svg>\n")
