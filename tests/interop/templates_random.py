"""Random templates for templates.py: a grammar of expressions and statements over one fixed row. Three of
four templates are `tame`: their expressions mostly have the right types, so that they render."""
import random
import re

DATA = {
    "messages": [
        {"role": "system", "content": "You are é kind. "},
        {"role": "user", "content": " Hi, there! \n", "name": "bob"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1, "b": [1.5, None, True], "c": "x\"y"}}}]},
        {"role": "tool", "content": "{\"t\": 7}", "tool_call_id": "abc"},
        {"role": "assistant", "content": "<think>hm</think>\n\nansw\u00e4r 漢字", "reasoning_content": "why"},
        {"role": "user", "content": [{"type": "text", "text": "part"}, {"type": "image"}]},
    ],
    "tools": [{"type": "function", "function": {"name": "g", "description": "d & <e>", "parameters": {"type": "object", "properties": {"x": {"type": "string"}, "y": {"type": ["integer", "null"]}}, "required": ["x"]}}}],
    "s": "Hello World, hello", "e": "", "n": 5, "z": 0, "f": 2.5, "neg": -3, "t": True, "no": None,
    "l": [3, 1, 2], "ls": ["b", "A", "c"], "d": {"k": "v", "items": 1, "b": 2}, "big": 1e20, "nested": {"a": {"b": [1, {"c": "deep"}]}},
}

class Generator:
    def __init__(self, seed):
        self.r = random.Random(seed); self.vars = list(DATA); self.loop = 0; self.macros = []; self.ns = False; self.tame = .97 if seed % 4 else .3
    def pick(self, *a): return self.r.choice(a)
    def lit(self):
        return self.r.choice(["1", "0", "-1", "2", "10", "2.5", "1.0", "0.1", "1e3", "'a'", "''", "' x '", "'a,b,c'", "\"q'q\"", "'\\n'", "'Ab Cd'", "'é'", "true", "false", "none", "[]", "[1, 2]", "['x', 'y']", "{}", "{'a': 1, 'b': [2]}", "(1, 'b')", "()", "undefinedvar", "'%s-%s'", "3", "100", "'x' 'y'"])
    def name(self):
        return self.r.choice(self.vars + (["loop.index", "loop.first", "loop.last", "loop.index0", "loop.length", "loop.revindex", "loop.previtem", "loop.nextitem", "loop"] if self.loop and self.r.random() < .5 else []))
    def atom(self, depth):
        k = self.r.random()
        if k < .35: return self.lit()
        if k < .75 or depth <= 0: return self.name()
        return "(" + self.expr(depth - 1) + ")"
    def typed(self, kind, depth=2):
        return re.sub("\x01(.)\x02", lambda x: self.typed(x.group(1), depth - 1), self.typed_form(kind, depth))
    def typed_form(self, kind, depth):
        """An expression that mostly has this type, and mostly works."""
        r = self.r; t = lambda k: "\x01" + k + "\x02"
        if r.random() < .03: return "(" + self.expr(1) + ")"
        base = {"s": ["s", "e", "'a'", "' x y '", "'a,b,,c'", "messages[1].content", "messages[4]['content']", "messages[-2].content", "'\u00e9\u6f22'", "'tab\tnl\n'", "\"it's\"", "ls[0]", "nested.a.b[1].c", "messages[0].role", "bos_token"],
                "i": ["n", "z", "neg", "1", "2", "7", "-3", "l[0]", "l | length", "d.b", "messages | length"],
                "l": ["l", "ls", "messages", "[1, 'b', none]", "[]", "tools", "range(4) | list", "s.split()", "[s, n]", "d.keys() | list", "d.items() | list", "(1, 2)"],
                "d": ["d", "messages[0]", "messages[2]", "tools[0].function", "nested", "{'a': 1, 'b': s}", "{}", "dict(x=n)"],
                "b": ["t", "n > 3", "not t", "s is string", "undefinedvar is defined", "messages[1].name is defined", "l | length == 3"]}[kind]
        if depth <= 0 or r.random() < .25: return r.choice(base)
        if kind == "s":
            return self.pick("%s.strip()" % t("s"), "%s ~ %s" % (t("s"), t(self.pick("s", "i", "b", "l", "d"))), "(%s + %s)" % (t("s"), t("s")), "(%s | trim)" % t("s"), "(%s | upper)" % t("s"), "%s.replace(%s, 'Z')" % (t("s"), t("s")), "(%s | tojson)" % t(self.pick("s", "i", "l", "d")), "(%s | tojson(indent=%s))" % (t(self.pick("l", "d")), self.pick("1", "2", "4", "0", "'--'")), "(%s | join(%s))" % (t("l"), self.pick("", "','", t("s"))), "(%s)[%s:%s]" % (t("s"), self.pick("", t("i")), self.pick("", t("i"))), "(%s)[::%s]" % (t("s"), self.pick("-1", "2", "-2")), "(%s | string)" % t(self.pick("l", "d", "i", "b")), "(%s if %s else %s)" % (t("s"), t("b"), t("s")), "(%s * 2)" % t("s"), "(%s | replace('a', %s))" % (t("s"), t("s")), "(%s | title)" % t("s"), "%s.title()" % t("s"), "(%s | capitalize)" % t("s"), "(%s | indent(%s, %s))" % (t("s"), t("i"), t("b")), "(%s | truncate(%s))" % (t("s"), self.pick("3", "5", "9")), "(%s | string | center(12))" % t("i"), "'%%s|%%5s|%%-6s|%%d' %% (%s, %s, %s, %s)" % (t("s"), t("s"), t("i"), t("i")), "%s.split(%s)[0]" % (t("s"), self.pick("", "','", "'l'")), "(%s | last | string)" % t("l"), "%s.lstrip('\\n ')" % t("s"), "%s.rstrip()" % t("s"), "(%s | default(%s, true))" % (t("s"), t("s")), "(%s | reverse)" % t("s"), "(%s | first)" % t("s"), "%s.get('%s', %s)" % (t("d"), self.pick("k", "role", "zz"), t("s")))
        if kind == "i":
            return self.pick("(%s %s %s)" % (t("i"), self.pick("+", "-", "*", "//", "%", "/"), t("i")), "(%s ** 2)" % self.pick("n", "f", "neg", "z"), "(%s | length)" % t(self.pick("s", "l", "d")), "(%s | int)" % self.pick(t("s"), t("i"), "'42.7'", "' 12 '", "'0x1f'"), "(%s | abs)" % t("i"), "%s.count('l')" % t("s"), "%s.find(%s)" % (t("s"), t("s")), "(%s / %s) | round(%s)" % (t("i"), self.pick("3", "7", "0.3"), self.pick("", "1", "2", "3, 'ceil'", "1, 'floor'")), "([%s, %s] | sum)" % (t("i"), t("i")), "([%s, %s] | max)" % (t("i"), t("i")), "-%s" % t("i"), "(f * %s)" % t("i"), "(%s | float)" % self.pick(t("i"), t("s"), "'1e5'"), "(big / %s)" % self.pick("3", "7e25", "1e-7"))
        if kind == "l":
            return self.pick("(%s)[%s:%s]" % (t("l"), self.pick("", t("i")), self.pick("", t("i"))), "(%s)[::%s]" % (t("l"), self.pick("-1", "2")), "(%s | list)" % t(self.pick("l", "s", "d")), "(%s + %s)" % (t("l"), t("l")), "(%s | reverse | list)" % t("l"), "(messages | map(attribute='%s') | list)" % self.pick("role", "content", "name", "tool_calls.0.function.name"), "(messages | selectattr('role', '%s', '%s') | list)" % (self.pick("eq", "ne", "equalto", "in"), self.pick("user", "assistant", "tool")), "(messages | rejectattr('tool_calls') | list)", "(messages | selectattr('content', 'string') | map(attribute='content') | map('%s') | list)" % self.pick("upper", "length", "trim", "first"), "(%s | batch(%s) | list)" % (t("l"), self.pick("1", "2", "3, 'x'")), "(%s | slice(%s) | list)" % (t("l"), self.pick("1", "2", "3, 'x'")), "%s.split(%s)" % (t("s"), self.pick("", "','", "'l'", "' ', 1")), "%s.splitlines()" % t("s"), "([%s, %s, %s] | sort%s)" % (t("i"), t("i"), t("i"), self.pick("", "(reverse=true)")), "(ls | sort%s)" % self.pick("", "(case_sensitive=true)", "(true)"), "(messages | sort(attribute='role') | map(attribute='role') | list)", "(%s | dictsort)" % self.pick("{'b': 1, 'A': 2, 'c': 0}", "nested", "d"), "(%s | items | list)" % t("d"), "(messages | groupby('role') | map(attribute='%s') | list)" % self.pick("grouper", "0", "list"), "(%s | unique | list)" % self.pick("ls + ls", "l + [3]", "s", "[1, 1.0, true, 'A', 'a']"), "(%s | select('%s') | list)" % (t("l"), self.pick("string", "number", "mapping", "defined", "none")), "([%s] * 2)" % t("s"))
        if kind == "d": return self.pick("(%s | first)" % "messages", "{'k': %s, %s: %s}" % (t("i"), t("s"), t("l")), "%s.copy()" % t("d"), "dict(%s, z=%s)" % (t("d"), t("i")))
        return self.pick("%s in %s" % (t("s"), t(self.pick("s", "l", "d"))), "%s not in %s" % (t("s"), t("l")), "%s == %s" % (t("s"), t("s")), "%s < %s" % (t("i"), t("i")), "%s and %s" % (t("b"), t("b")), "%s or %s" % (t("b"), t("s")), "not %s" % t("b"), "%s.startswith(%s)" % (t("s"), t("s")), "%s is %s" % (t(self.pick("s", "i", "l", "d")), r.choice(self.TESTS)), "1 < %s <= 5" % t("i"), "%s.%s()" % (t("s"), self.pick("isdigit", "isalpha", "isspace", "isupper", "islower", "istitle", "isalnum")), "%s == %s" % (t("l"), t("l")))
    def args(self, depth, n): return ", ".join(self.expr(depth - 1) for _ in range(n))
    METHODS = ["strip()", "lstrip()", "rstrip()", "strip('l')", "upper()", "lower()", "title()", "capitalize()", "split()", "split(',')", "split('l', 1)", "rsplit(' ', 1)", "splitlines()", "replace('l', 'L')", "replace('', '-')", "replace('l', 'X', 1)", "startswith('H')", "endswith('o')", "startswith(('a', 'H'))", "find('l')", "rfind('l')", "find('zz')", "count('l')", "index('l')", "join(ls)", "join(['a', 'b'])", "format(1, 2)", "partition(' ')", "rpartition('l')", "zfill(8)", "center(9)", "ljust(8, '.')", "rjust(8)", "isdigit()", "isalpha()", "isalnum()", "isspace()", "islower()", "isupper()", "istitle()", "swapcase()", "removeprefix('He')", "removesuffix('lo')", "items()", "keys()", "values()", "get('k')", "get('zz', 3)", "get('a')", "copy()", "append(1)", "pop()", "update({})", "index(1)", "count(1)", "nosuch()", "k", "a", "role", "content", "b", "items", "name", "0", "1"]
    FILTERS = ["trim", "upper", "lower", "title", "capitalize", "length", "count", "list", "string", "int", "float", "abs", "first", "last", "join", "join(', ')", "join('-', 'role')", "default('D')", "default('D', true)", "d(1)", "tojson", "tojson(indent=2)", "tojson(separators=(',', ':'))", "tojson(ensure_ascii=True)", "tojson(sort_keys=true)", "replace('l', '1')", "replace(' ', '')", "sort", "sort(reverse=true)", "sort(attribute='role')", "dictsort", "dictsort(by='value')", "items | list", "reverse | list", "reverse", "unique | list", "map('upper') | list", "map(attribute='role') | list", "map(attribute='name', default='?') | list", "map('int') | join('+')", "select | list", "select('string') | list", "reject('none') | list", "selectattr('role', 'equalto', 'user') | list", "selectattr('name') | list", "rejectattr('role', 'in', ['user', 'tool']) | map(attribute='role') | join(',')", "batch(2) | list", "slice(2) | list", "sum", "min", "max", "round", "round(1)", "indent(2)", "indent(2, true)", "truncate(9)", "truncate(9, true, '')", "format(1)", "wordcount", "groupby('role') | list", "attr('role')", "center(11)", "first | upper", "map('length') | sum", "selectattr('role', 'ne', 'x') | map(attribute='role') | list", "string | length", "safe", "e", "tojson | safe"]
    TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "mapping", "iterable", "sequence", "true", "false", "boolean", "odd", "even", "divisibleby(2)", "divisibleby 3", "eq 1", "equalto('a')", "ne none", "in [1, 2, 'a']", "sameas none", "sameas true", "lower", "upper", "gt 1", "lt(3)", "ge 2", "callable"]
    def expr(self, depth=3):
        r = self.r
        if r.random() < self.tame: return self.typed(self.pick("s", "s", "i", "l", "d", "b"), depth)
        if depth <= 0: return self.atom(0)
        k = r.random()
        if k < .18: return self.atom(depth)
        if k < .30: return self.atom(depth) + "." + r.choice(self.METHODS)
        if k < .36: return self.atom(depth) + "[" + self.pick("0", "-1", "1", "'k'", "'role'", "'items'", self.expr(depth - 2), "'nosuch'") + "]"
        if k < .43:
            if self.r.random() < .7: return self.pick("s", "l", "ls", "messages") + "[" + self.pick("1:", ":-1", "::2", "-2:", ":n", "::-1") + "]"
            b = lambda: self.pick("", "", "0", "1", "-1", "2", "-2", "10", "none", "n")
            return self.name() + "[" + b() + ":" + b() + self.pick("", "", ":" + self.pick("", "1", "2", "-1", "-2", "0")) + "]"
        if k < .60: return self.atom(depth) + " | " + r.choice(self.FILTERS)
        if k < .66: return self.expr(depth - 1) + self.pick(" is ", " is not ") + r.choice(self.TESTS)
        if k < .74: return self.expr(depth - 1) + self.pick(" + ", " + ", " - ", " * ", " / ", " // ", " % ") + self.expr(depth - 1)
        if k < .80: return self.expr(depth - 1) + " ~ " + self.expr(depth - 1)
        if k < .86: return self.expr(depth - 1) + self.pick(" == ", " != ", " < ", " <= ", " > ", " >= ", " in ", " not in ") + self.expr(depth - 1)
        if k < .91: return self.expr(depth - 1) + self.pick(" and ", " or ") + self.expr(depth - 1)
        if k < .93: return "(" + self.pick("not ", "-", "+") + self.expr(depth - 1) + ")"
        if k < .97: return self.expr(depth - 1) + " if " + self.expr(depth - 1) + self.pick("", " else " + self.expr(depth - 1))
        return self.pick("range(%s)" % self.args(depth, 1), "range(1, %s)" % self.lit(), "range(5, 0, -2)", "range(3) | list", "dict(a=1, b=s)", "namespace(a=1).a", "[%s, %s]" % (self.expr(1), self.expr(1)), "{'x': %s, 'y': 1}" % self.expr(1), "strftime_now('%d %b %Y')", "raise_exception('bad ' ~ n)", "'%s is %d' % (s, n)", "'%5.2f|%-4s|%x' % (f, 'a', n)", "'{} and {a}'.format(n, a=s)", "'{1}{0!r:>5}'.format('a', n)", "(%s)" % self.expr(depth - 1))
    def ws(self, tag, body, end):
        r = self.r
        a = self.pick("", "", "", "-", "-", "+") if tag != "{{" else self.pick("", "", "", "-")
        b = self.pick("", "", "", "-", "-") + ""
        if tag == "{%" and r.random() < .08: b = "+"
        return tag + a + " " + body + " " + b + end
    def text(self): return self.r.choice(["a", " ", "\n", "\n  ", "  ", "x\n", "\n\n", " é ", "<|im_start|>", "\t", "b \n c", "", "{ }", "%}", "#"])
    def stmts(self, depth, n=None):
        return "".join(self.stmt(depth) + self.text() for _ in range(n or self.r.randrange(1, 4)))
    def stmt(self, depth):
        r = self.r; k = r.random()
        B = lambda s: self.ws("{%", s, "%}")
        if depth <= 0 or k < .38: return self.ws("{{", self.expr(3), "}}")
        if k < .42: return self.pick("{# c #}", "{#- c -#}", "{# {{ x }} #}\n", "{#+ c +#}")
        if k < .46: return self.pick("{% raw %} {{ x }} {% endraw %}", "{%- raw -%}\n{% if %}\n{%- endraw -%}", "{{ '{{' }}")
        if k < .56:
            out = B("if " + self.expr(2)) + self.stmts(depth - 1)
            if r.random() < .4: out += B("elif " + self.expr(2)) + self.stmts(depth - 1)
            if r.random() < .5: out += B("else") + self.stmts(depth - 1)
            return out + B("endif")
        if k < .70:
            v = r.choice(["m", "i", "x", "message", "s"]); kept = list(self.vars)
            it = self.pick("messages", "l", "ls", "s", "range(3)", "d", "d.items()", "tools", self.expr(2), "messages[1:]", "messages[::-1]", "d | dictsort", "[]", "[[1, 2], [3, 4]]")
            if r.random() < .2: v, it = "k, v", self.pick("d.items()", "d | items", "[[1, 2], [3, 4]]", "{'a': 1}.items()", "l"); self.vars += ["k", "v"]
            else: self.vars.append(v)
            cond = " if " + self.expr(1) if r.random() < .2 else ""
            self.loop += 1
            body = self.stmts(depth - 1)
            if r.random() < .25: body += B("if " + self.expr(1)) + B(self.pick("break", "continue")) + B("endif") + self.text()
            if r.random() < .2: body += "{{ loop.cycle('o', 'e') }}{{ loop.changed(%s) }}" % self.expr(1)
            self.loop -= 1; self.vars = kept
            els = B("else") + self.stmts(depth - 1) if r.random() < .25 else ""
            return B("for %s in %s%s" % (v, it, cond)) + body + els + B("endfor")
        if k < .80:
            v = self.pick("x", "y", "s", "foo", "l")
            out = B("set %s = %s" % (v, self.expr(3)))
            self.vars.append(v)
            return out
        if k < .83:
            out = B("set a, b = %s, %s" % (self.expr(1), self.expr(1))); self.vars += ["a", "b"]; return out
        if k < .87:
            if not self.ns: self.ns = True; return B("set ns = namespace(c=0, found=false, t='')") + self.ns_use()
            return self.ns_use()
        if k < .90:
            v = self.pick("blk", "x"); f = self.pick("", "", " | trim", " | upper | trim")
            out = B("set " + v + f) + self.stmts(depth - 1) + B("endset"); self.vars.append(v); return out
        if k < .95:
            m = "mac%d" % len(self.macros); kept = list(self.vars); self.vars += ["p", "q"]
            sig = self.pick("p", "p, q=2", "p='x', q=s", "p, q=p", "")
            body = self.stmts(depth - 1) + self.pick("", "", "{{ caller() }}", "{{ varargs }}", "{{ kwargs }}", "{{ p }}")
            self.vars = kept; self.macros.append(m)
            return B("macro %s(%s)" % (m, sig)) + body + B("endmacro") + "{{ %s(%s) }}" % (m, self.pick("", "1", "s, n", "p=s", "1, q=2", "*l", "1, 2, 3", "**{'p': 1}", "q=1"))
        if k < .97 and self.macros: return B("call %s(%s)" % (r.choice(self.macros), self.pick("", "1", "s"))) + self.stmts(depth - 1) + B("endcall")
        if k < .985: return B("filter " + self.pick("upper", "trim", "replace('a', 'b')", "indent(2)")) + self.stmts(depth - 1) + B("endfilter")
        if k < .993: return B("with w = %s, y = s" % self.expr(1)) + "{{ w }}" + self.stmts(depth - 1) + B("endwith")
        return B("generation") + self.stmts(depth - 1) + B("endgeneration")
    def ns_use(self):
        return self.pick("{% set ns.c = ns.c + 1 %}{{ ns.c }}", "{% set ns.t = ns.t ~ s %}{{ ns.t }}", "{% for m in messages %}{% set ns.c = ns.c + 1 %}{% if m.role == 'user' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.c }}{{ ns.found }}", "{{ ns.nosuch }}", "{{ ns }}", "{% set ns.c = " + self.expr(2) + " %}{{ ns.c }}")
