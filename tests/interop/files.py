"""Rows of data files against pyarrow, pandas and datasets: Parquet files of every type, encoding, codec,
page version and nesting that pyarrow writes, read back row for row; CSV as pandas reads it; slices and
splits as datasets takes them.

The C half is interop_rows (rows.c), which prints a file's rows as JSON."""
import base64
import datetime
import decimal
import io
import itertools
import json
import math
import os
import random
import subprocess
import time
import uuid

import datasets
import pandas
import pyarrow as pa
import pyarrow.parquet as pq

import ours

TOOL = os.environ["NIBBLE_ROWS"]


def rows_of(path, *how):
    p = subprocess.run([TOOL, *(how[:1] or ["print"]), path, *map(str, how[1:])], stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE)
    if p.returncode:
        raise ours.Differs("%s: exit %d: %s" % (os.path.basename(path), p.returncode, p.stderr.decode()[-300:]))
    return [json.loads(line) for line in p.stdout.decode().split("\n") if line]


# ---- what to_pylist gives, as JSON ----


def plain(value):
    """The documented rendering (data/parquet/render.h) of a value of to_pylist."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, (datetime.date, datetime.time, pandas.Timestamp)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        raise AssertionError("durations are integers in Parquet")
    return value


def same(got, table, what):
    want = plain(table.to_pylist())
    if got == want:
        return
    for i, (g, w) in enumerate(itertools.zip_longest(got, want)):
        if g != w:
            raise ours.Differs("%s, row %d: %.200r instead of %.200r" % (what, i, g, w))


# ---- tables of every type ----


def words(rng):
    return "".join(rng.choice("abc \u00e9\u4f60\U0001f600\"\\\n\t\x00\x1f/") for _ in range(rng.choice([0, 1, 5, 40])))


def scalars(rng):
    """name -> (type, a maker of values)."""
    utc = "UTC"
    whole = lambda bits, signed: lambda: (rng.choice([0, -(1 << bits - 1), (1 << bits - 1) - 1, rng.randrange(100)])
                                          if signed else rng.choice([0, (1 << bits) - 1, rng.randrange(100)]))
    real = lambda: rng.choice([0.0, -0.0, 1.5, 1e300, 5e-324, math.pi * rng.random(), math.nan, math.inf])
    types = {"bool": (pa.bool_(), lambda: rng.random() < .5),
             "float": (pa.float32(), lambda: rng.choice([0.0, 1.5, 3e38, 1e-45, rng.random(), math.nan])),
             "double": (pa.float64(), real),
             "half": (pa.float16(), lambda: rng.choice([0.0, 1.5, -65504.0, 6e-8, rng.random()])),
             "string": (pa.string(), lambda: words(rng)),
             "large_string": (pa.large_string(), lambda: words(rng)),
             "binary": (pa.binary(), lambda: rng.choice([b"", b"text", b"\xff\x00", bytes(rng.randrange(256) for _ in range(9))])),
             "fixed": (pa.binary(5), lambda: rng.choice([b"12345", b"\xff\x00\x01\x02\x03"])),
             "date": (pa.date32(), lambda: datetime.date.fromordinal(rng.randrange(1, 3652059))),
             "time_ms": (pa.time32("ms"), lambda: datetime.time(rng.randrange(24), 59, 1, rng.choice([0, 7000, 999000]))),
             "time_us": (pa.time64("us"), lambda: datetime.time(rng.randrange(24), 0, 1, rng.choice([0, 7, 999999]))),
             "stamp_ms": (pa.timestamp("ms"), lambda: rng.randrange(-62135596800000, 253402300799999)),
             "stamp_us": (pa.timestamp("us", utc), lambda: rng.randrange(-62135596800000000, 253402300799999999)),
             "stamp_ns": (pa.timestamp("ns"), lambda: rng.randrange(-(1 << 62), 1 << 62)),
             "decimal5": (pa.decimal128(5, 2), lambda: decimal.Decimal(rng.randrange(-99999, 99999)).scaleb(-2)),
             "decimal18": (pa.decimal128(18, 0), lambda: decimal.Decimal(rng.randrange(-10**18 + 1, 10**18))),
             "decimal38": (pa.decimal128(38, 10), lambda: decimal.Decimal(rng.randrange(-10**38 + 1, 10**38)).scaleb(-10, decimal.Context(prec=80))),
             "decimal76": (pa.decimal256(76, 30), lambda: decimal.Decimal(rng.randrange(-10**76 + 1, 10**76)).scaleb(-30, decimal.Context(prec=80))),
             "null": (pa.null(), lambda: None),
             "labels": (pa.dictionary(pa.int32(), pa.string()), lambda: rng.choice(["a", "b", "\u00e9"]))}
    for bits in (8, 16, 32, 64):
        types["int%d" % bits] = (getattr(pa, "int%d" % bits)(), whole(bits, True))
        types["uint%d" % bits] = (getattr(pa, "uint%d" % bits)(), whole(bits, False))
    return types


def sometimes(rng, nulls, make):
    return lambda: None if rng.random() < nulls else make()


def nested(rng, kind, make, nulls):
    """Types around a scalar: (type, maker)."""
    lists = lambda k, m: (pa.list_(k), lambda: [m() for _ in range(rng.choice([0, 1, 2, 5]))])
    inner = sometimes(rng, nulls, make)
    yield "list", *lists(kind, inner)
    k, m = lists(kind, inner)
    yield "list_list", *lists(k, sometimes(rng, nulls, m))
    struct = pa.struct([("a", kind), ("b", pa.string())])
    field = lambda: {"a": inner(), "b": rng.choice([None, "x", "yy"])}
    yield "struct", struct, field
    yield "list_struct", *lists(struct, sometimes(rng, nulls, field))
    deep = pa.struct([("s", pa.list_(struct)), ("n", struct)])
    yield "struct_deep", deep, lambda: {"s": rng.choice([None, [], [field(), field()]]), "n": rng.choice([None, field()])}
    yield "map", pa.map_(pa.string(), kind), lambda: [(str(i), inner()) for i in range(rng.choice([0, 1, 3]))]
    yield "large_list", pa.large_list(kind), lambda: [inner() for _ in range(rng.choice([0, 3]))]
    yield "fixed_list", pa.list_(kind, 2), lambda: [inner(), inner()]


def table_of(rng, columns, rows, nulls):
    arrays, fields = [], []
    for name, (kind, make) in columns.items():
        maker = sometimes(rng, nulls, make)
        arrays.append(pa.array([maker() for _ in range(rows)], kind))
        fields.append(pa.field(name, kind))
    return pa.table(arrays, schema=pa.schema(fields))


WAYS = [dict(), dict(compression="none"), dict(compression="zstd", data_page_version="2.0"),
        dict(compression="gzip"), dict(compression="brotli", data_page_version="2.0"), dict(compression="lz4"),
        dict(use_dictionary=False, data_page_size=300), dict(data_page_version="2.0", data_page_size=200),
        dict(dictionary_pagesize_limit=200, data_page_size=400), dict(write_page_checksum=True),
        dict(row_group_size=37), dict(version="1.0"), dict(write_page_index=True, write_statistics=True),
        dict(use_compliant_nested_type=False), dict(use_deprecated_int96_timestamps=True),
        dict(store_decimal_as_integer=True), dict(store_schema=False)]


def written(table, path, **way):
    try:
        pq.write_table(table, path, **way)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return None
    return pq.read_table(path)


def all_types(place):
    """Every scalar and every nesting of it, with and without nulls, in every way to write it."""
    rng, path, files, values = random.Random(1), place.path("t.parquet"), 0, 0
    kinds = scalars(rng)
    for nulls in (0, .3):
        for way in WAYS:
            wide = {k: v for k, v in kinds.items() if not way.get("use_deprecated_int96_timestamps") or
                    k not in ("stamp_ms", "stamp_us")}  # which do not fit its nanoseconds
            tables = [table_of(rng, wide, 150, nulls)]
            for name in rng.sample(sorted(wide), 4):
                columns = {n: (k, m) for n, k, m in nested(rng, *kinds[name], nulls)}
                tables += [table_of(rng, {n: column}, 60, nulls) for n, column in columns.items()]
            for table in tables:
                back = written(table, path, **way)
                if back is None:
                    continue
                same(rows_of(path), back, "%s %s" % (way, table.schema.names))
                files, values = files + 1, values + table.num_rows * table.num_columns
    return "%d files, %d values" % (files, values)


def encodings(place):
    """Every encoding on every type it goes with."""
    rng, path, files = random.Random(2), place.path("t.parquet"), 0
    kinds = scalars(rng)
    for encoding in ("PLAIN", "RLE", "DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY",
                     "BYTE_STREAM_SPLIT"):
        for name, (kind, make) in kinds.items():
            for nulls, version, rows in itertools.product((0, .4, 1), ("1.0", "2.0"), (0, 1, 700)):
                table = table_of(rng, {"x": (kind, make), "y": (pa.list_(kind), lambda: [make() for _ in range(rng.randrange(4))])},
                                 rows, nulls)
                column_encoding = {"x": encoding, "y.list.element": encoding}
                try:
                    back = written(table, path, use_dictionary=False, column_encoding=column_encoding,
                                   data_page_version=version, data_page_size=500)
                except OSError:  # does not go with the type
                    continue
                if back is None:
                    continue
                same(rows_of(path), back, "%s %s" % (encoding, name))
                files += 1
    return "%d files" % files


def slices(place):
    """Rows from the middle: row groups, pages and nested columns are passed over."""
    rng, path = random.Random(3), place.path("t.parquet")
    kinds = scalars(rng)
    columns = dict(kinds, **{n: (k, m) for n, k, m in nested(rng, *kinds["string"], .2)})
    count = 0
    for way in (dict(row_group_size=70, data_page_size=200), dict(data_page_version="2.0", row_group_size=1000)):
        table = written(table_of(rng, columns, 500, .2), path, **way)
        assert rows_of(path, "count") == [500]
        for _ in range(40):
            a, b = sorted(rng.randrange(520) for _ in range(2))
            same(rows_of(path, "slice", a, b), table.slice(a, max(b - a, 0)), "rows %d to %d" % (a, b))
            count += 1
    return "%d slices of %d columns" % (count, len(columns))


def speed(place):
    """100,000 conversations from a file to objects, on one thread each: at least pyarrow's pace."""
    rng, path = random.Random(6), place.path("t.parquet")
    vocabulary = ["word%d" % rng.randrange(5000) for _ in range(20000)]

    def text():
        at = rng.randrange(len(vocabulary) - 80)
        return " ".join(vocabulary[at:at + rng.randint(5, 80)])

    rows = [{"id": "row-%d" % i, "messages": [{"role": ("user", "assistant")[k % 2], "content": text()}
                                              for k in range(rng.randint(2, 8))]} for i in range(100000)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    del rows
    theirs, as_text, as_objects = [], [], []
    for _ in range(3):
        start = time.monotonic()
        pq.read_table(path, use_threads=False).to_pylist()
        theirs.append(time.monotonic() - start)
        p = subprocess.run([TOOL, "time", path], stdout=subprocess.PIPE, check=True, encoding="utf-8")
        for seconds, kept in zip(p.stdout.split(), (as_text, as_objects)):
            kept.append(float(seconds))
    ratio = min(theirs) / min(as_objects)
    if ratio < 1:
        raise ours.Differs("%.2f s, pyarrow %.2f s" % (min(as_objects), min(theirs)))
    return "%.1f MB in %.2f s, %.2f s of it to text: %.1f x pyarrow's read_table and to_pylist" % (
        os.path.getsize(path) / 1e6, min(as_objects), min(as_text), ratio)


# ---- CSV ----


def csv(place):
    """Random text as a table: pandas, without types."""
    rng, files, refused = random.Random(4), 0, 0
    for _ in range(400):
        sep = rng.choice(",\t")
        alphabet = ["a", "b", "c", "ab", '"', '"', sep, "\n", "\n", "\r\n", " ", ";", "\u00e9"]
        head = rng.choice(["x" + sep + "y\n", "x\n", "x" + sep + "y" + sep + "x\r\n", '"q""z"\n', ""])
        text = head + "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 25)))
        path = place.path("t.tsv" if sep == "\t" else "t.csv")
        with open(path, "w", newline="", encoding="utf-8") as f:
            f.write(text)
        try:
            frame = pandas.read_csv(io.StringIO(text, newline=""), sep=sep, dtype=str, keep_default_na=False,
                                    na_values=[""])
            if not isinstance(frame.index, pandas.RangeIndex):
                raise ValueError("cells beyond the names became an index")
            want = [{k: v if v == v else None for k, v in r.items()} for r in frame.to_dict("records")]
        except ValueError:
            want = None
        try:
            got = rows_of(path)
        except ours.Differs:
            got = None
        if got != want:
            raise ours.Differs("%r: %r instead of %r" % (text, got, want))
        files, refused = files + 1, refused + (want is None)
    return "%d files, %d of them refused by both" % (files, refused)


# ---- which files ----


def chosen(folder, **how):
    """The rows that the program reads of a folder; None when it refuses."""
    arguments = [TOOL, "dataset", folder, how.get("split", "train"), how.get("name") or "", *how.get("data_files", [])]
    p = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder)
    if p.returncode not in (0, 3):
        raise ours.Differs("exit %d: %s" % (p.returncode, p.stderr.decode()[-300:]))
    return None if p.returncode else [json.loads(line)["x"] for line in p.stdout.decode().splitlines()]


def there(folder, cache, **how):
    """The same by datasets."""
    try:
        data = datasets.load_dataset(folder, how.get("name"), split=how.get("split", "train"),
                                     data_files=how.get("data_files"), cache_dir=cache)
    except (ValueError, FileNotFoundError, StopIteration, datasets.exceptions.DatasetNotFoundError,
            datasets.data_files.EmptyDatasetError):
        return None
    return data["x"][:]


CARDS = [None, "configs:\n- config_name: a\n  data_files: '%s'\n- config_name: b\n  default: true\n  data_files:\n"
               "  - split: train\n    path: ['%s', '%s']\n  - split: test\n    path: '%s'\n",
         "configs:\n- config_name: default\n  data_dir: %s\n"]
FOLDERS = ["", "data/", "train/", "test-1/", "x/", "x/my_valid/", "default/train/"]
STEMS = ["train", "test", "a", "train-00000-of-00002", "train-00001-of-00002-ab", "sft-00000-of-00001", "my_dev",
         "eval.v2", "constrained", "training2"]


def folders(place):
    """Random folders of files with and without a card: what datasets takes of them, or refuses."""
    rng, asked, refused, cache = random.Random(5), 0, 0, place.path("cache")
    datasets.disable_progress_bars()
    for number in range(60):
        folder, row = place.path("d%d" % number), 0
        names = {rng.choice(FOLDERS) + rng.choice(STEMS) + ".jsonl" for _ in range(rng.randint(1, 6))}
        for name in sorted(names):
            os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
            with open(os.path.join(folder, name), "w") as f:
                for row in range(row + 1, row + 4):
                    f.write('{"x": %d}\n' % row)
        card = rng.choice(CARDS)
        if card:
            known = sorted(names) + ["**/*.jsonl", "*", "x/**"]
            parts = [rng.choice(known) for _ in range(card.count("%s"))] if "split" in card else ["x"]
            with open(os.path.join(folder, "README.md"), "w") as f:
                f.write("---\nlicense: mit\n" + card % tuple(parts) + "---\n# a card\n")
        ways = [dict(split=s) for s in ("train", "test", "validation", "sft", "train[:50%]", "train[2:5]")]
        ways += [dict(name="a")]
        if not card:  # which datasets wants whole even then
            ways += [dict(data_files=["**/*a*.jsonl"]), dict(data_files=[sorted(names)[0]])]
        for way in ways:
            got, want = chosen(folder, **way), there(folder, cache, **way)
            if got != want and not (card and want is None):  # it wants all of a card right, not what is asked for
                raise ours.Differs("%s of %s%s: %s instead of %s" % (way, sorted(names), card and card % tuple(parts),
                                                                     got, want))
            asked, refused = asked + 1, refused + (want is None and got is None)
    return "%d questions, %d refused by both" % (asked, refused)


TABLE = [
    ("files/parquet-types", all_types),
    ("files/parquet-encodings", encodings),
    ("files/parquet-slices", slices),
    ("files/parquet-speed", speed),
    ("files/csv", csv),
    ("files/folders", folders),
]
