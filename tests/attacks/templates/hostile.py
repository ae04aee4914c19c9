"""Chat templates that strangers wrote with intent: each must end in BadTemplate, soon, and without much memory.

Not a test module: `test_hostile_templates.py` runs every entry, the bombs in a process with little memory.
"""

# ruff: noqa: E501

# Reach for Python's internals. The first is the payload of CVE-2024-34359 (llama-cpp-python before 0.2.72).
ESCAPES = {
    "cve-2024-34359": "{% for x in ().__class__.__base__.__subclasses__() %}{% if 'warning' in x.__name__ %}"
    "{{ x()._module.__builtins__['__import__']('os').popen('id').read() }}{% endif %}{% endfor %}",
    "class-chain": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class-by-item": "{{ ''['__class__']['__mro__'] }}",
    "attr-filter": "{{ ''|attr('__class__') }}",
    "attr-filter-built-name": "{{ ''|attr('__cl' ~ 'ass__') }}",
    "format-attribute": "{{ '{0.__class__.__mro__}'.format('') }}",
    "format-map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "format-through-map": "{{ ['{0.__class__}'] | map('format', 1) | list }}{{ ''.__class__ }}",
    "function-globals": "{{ raise_exception.__globals__['os'] }}",
    "function-code": "{{ strftime_now.__code__.co_consts }}",
    "function-closure": "{{ strftime_now.__closure__[0].cell_contents }}",
    "cycler-init": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "joiner-init": "{{ joiner.__init__.__globals__ }}",
    "namespace-init": "{{ namespace.__init__.__globals__ }}",
    "lipsum-globals": "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "undefined-init": "{{ nothing.__init__.__globals__ }}",
    "self-internals": "{{ self._TemplateReference__context.environment }}",
    "self-init": "{{ self.__init__.__globals__ }}",
    "macro-internals": "{% macro m() %}{% endmacro %}{{ m._environment.filters }}",
    "macro-func-globals": "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "loop-internals": "{% for x in [1] %}{{ loop._iterator.gi_frame.f_globals }}{% endfor %}",
    "generator-frame": "{{ ([1] | map('string')).gi_frame.f_builtins }}",
    "dict-class": "{{ dict.__base__.__subclasses__() }}",
    "config": "{{ config.items() }}{{ config.x.y }}",
    "import-os": "{% import 'os' as os %}{{ os.system('id') }}",
    "include-file": "{% include '/etc/passwd' %}",
    "extends-file": "{% extends '/etc/passwd' %}",
    "from-import": "{% from 'os' import system %}{{ system('id') }}",
    "mutate-list": "{% set _ = messages.append({'role': 'user', 'content': 'x'}) %}",
    "mutate-dict": "{% set _ = messages[0].update({'content': 'x'}) %}",
    "mutate-clear": "{{ messages.clear() }}",
    "call-a-class": "{{ (1).__class__('2') }}",
    "int-method": "{{ (1).to_bytes(1, 'big') }}",
    "encode": "{{ 'a'.encode('idna') }}",
    "unknown-filter": "{{ 'x' | pprint }}",
    "debug-extension": "{% debug %}",
    "do-extension": "{% do messages.append(1) %}",
}

# Reach for the same and get nothing: Jinja makes an undefined value of it, which prints as nothing.
HARMLESS = {
    "format-item": "{{ '{0[__class__]}'.format(raise_exception) }}",
    "format-method-alias": "{% set f = '{0.__class__.__init__}'.format %}{{ f(1) }}",
    "map-attribute": "{{ [''] | map(attribute='__class__') | list | first }}",
    "message-attribute": "{{ messages[0].__class__ }}",
    "filter-block": "{% filter upper %}{{ ''.__class__ }}{% endfilter %}",
}

# Run for ever, or nearly.
LOOPS = {
    "nested-ranges": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "nested-text": "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "nested-list": "{% set x = range(99999) %}{% for a in x %}{% for b in x %}{% for c in x %}{% endfor %}{% endfor %}{% endfor %}",
    "range-too-long": "{% for a in range(10000000000) %}{% endfor %}",
    "macro-recursion": "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "macro-tree": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "macro-tree-silent": "{% macro m(n) %}{% if n %}{% set _ = m(n - 1) ~ m(n - 1) %}{% endif %}{% endmacro %}{{ m(60) }}",
    "block-recursion": "{% block a %}{{ self.a() }}{% endblock %}",
    "loop-recursion": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "loop-tree": "{% for x in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
    "loop-inner-range": "{% for x in range(9999) recursive %}{{ loop(range(99999)) if loop.depth < 9 }}{% endfor %}",
    "caller-recursion": "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{% call m() %}{% endcall %}",
    "map-in-loop": "{% for a in range(99999) %}{{ range(99999) | map('string') | join | length }}{% endfor %}",
    "sort-in-loop": "{% for a in range(99999) %}{% set x = range(99999) | sort | list %}{% endfor %}",
    "sum-of-lists": "{% set ns = namespace(x=range(99999) | map('list')) %}{{ [[1]] * 99999 | sum(start=[]) }}"
    "{{ ([[1]] * 99999) | sum(start=[]) | length }}{% for a in range(99999) %}{{ [[1]] * 9999 }}{% endfor %}",
    "dag-printed": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "dag-compared": "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
    "{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}",
    "dag-hashed": "{% set n = namespace(x=(1,)) %}{% for i in range(60) %}{% set n.x = (n.x, n.x) %}{% endfor %}{{ {n.x: 1} }}",
    "dag-by-dict": "{% set n = namespace(x={}) %}{% for i in range(60) %}{% set n.x = {'a': n.x, 'b': n.x} %}{% endfor %}"
    "{{ n.x | tojson }}",
    "dag-by-call": "{% set n = namespace(x={}) %}{% for i in range(60) %}{% set n.x = dict(a=n.x, b=n.x) %}{% endfor %}"
    "{{ n.x | tojson }}",
    "dag-by-sum": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x] + [n.x] %}{% endfor %}"
    "{{ n.x == n.x | list }}{{ n.x }}",
    "dag-by-product": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x] * 9 %}{% endfor %}{{ n.x }}",
    "dag-by-varargs": "{% macro m() %}{% set n.x = varargs %}{% endmacro %}{% set n = namespace(x=[1]) %}"
    "{% for i in range(60) %}{{ m(n.x, n.x) }}{% endfor %}{{ n.x }}",
    "dag-by-cycler": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = cycler(n.x, n.x).items %}{% endfor %}"
    "{{ n.x }}",
    "dag-by-default": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}"
    "{% set n.x = [1, 2] | map(attribute='no', default=n.x) | list %}{% endfor %}{{ n.x }}",
    "dag-by-namespace": "{% set n = namespace(x=1) %}{% for i in range(60) %}{% set n.x = namespace(a=n.x, b=n.x) %}{% endfor %}"
    "{{ n.x }}",
    "namespace-in-itself": "{% set n = namespace() %}{% set n.x = n %}{{ n }}",
    "huge-power": "{{ 10 ** 9999999999 }}",
    "huge-power-negative": "{{ (-10) ** 1000000000 }}",
    "squares": "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}",
    "round-far": "{{ 5 | round(-1000000000) }}",
    "strftime": "{% for i in range(99999) %}{{ strftime_now('%c' * 99999) }}{% endfor %}",
}

# Ask for memory.
BOMBS = {
    "text-times": "{{ 'a' * 10 ** 10 }}",
    "text-times-swapped": "{{ (10 ** 10) * 'a' }}",
    "list-times": "{{ [0] * 10 ** 10 }}",
    "percent-width": "{{ '%10000000000d' % 1 }}",
    "percent-width-from-value": "{{ '%*d' % (1000000000, 1) }}",
    "percent-precision": "{{ '%.1000000000f' % 1 }}",
    "percent-many": "{{ ('%s' * 99999) % (('a' * 99999,) * 99999) }}",
    "format-filter-width": "{{ '%10000000000d' | format(1) }}",
    "format-width": "{{ '{:10000000000d}'.format(1) }}",
    "format-width-from-value": "{{ '{:{}d}'.format(1, 10000000000) }}",
    "format-many": "{{ ('{0}' * 99999).format('a' * 99999) }}",
    "center": "{{ 'a'.center(10000000000) }}",
    "ljust": "{{ 'a'.ljust(10000000000) }}",
    "zfill": "{{ '1'.zfill(10000000000) }}",
    "expandtabs": "{{ '\\t'.expandtabs(10000000000) }}",
    "center-filter": "{{ 'a' | center(10000000000) }}",
    "indent": "{{ ('a\\n' * 9999) | indent(10000) | indent(10000) }}",
    "indent-wide": "{{ 'a\\na' | indent(10000000000) }}",
    "replace-empty": "{{ ('a' * 99999) | replace('', 'b' * 99999) }}",
    "replace-method": "{{ ('a' * 99999).replace('', 'b' * 99999) }}",
    "join": "{{ range(99999) | join('a' * 99999) }}",
    "join-method": "{{ ('a' * 99999).join(range(99999) | map('string')) }}",
    "list-of-text": "{{ ('a' * 8000000) | list | length }}",
    "json-indent": "{{ [1, [2, [3]]] | tojson(indent=1000000000) }}",
    "json-indent-text": "{{ [1, [2]] | tojson(indent='a' * 9999999) }}",
    "json-indent-deep": "{% set n = namespace(x=range(9999) | list) %}{% for i in range(900) %}{% set n.x = [n.x] %}{% endfor %}"
    "{{ n.x | tojson(indent=16) }}",
    "doubling-tilde": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling-plus": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling-list": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling-block": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set b %}{{ n.x }}{{ n.x }}{% endset %}"
    "{% set n.x = b %}{% endfor %}",
    "doubling-macro": "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{% set n = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set n.x = m(n.x) %}{% endfor %}",
    "doubling-filter-block": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set b %}{% filter upper %}"
    "{{ n.x }}{{ n.x }}{% endfilter %}{% endset %}{% set n.x = b %}{% endfor %}",
    "many-long-texts": "{% set n = namespace(x=[], s='a' * 4000000) %}"
    + "".join(f"{{% set n.x{i} = n.s ~ {i} %}}" for i in range(2000)),
    "many-slices": "{% set n = namespace(s='a' * 8000000) %}"
    + "".join(f"{{% set n.x{i} = n.s[{i}:] %}}" for i in range(2000)),
    "many-uppers": "{% set n = namespace(s='a' * 8000000) %}"
    + "".join(f"{{% set n.x{i} = n.s.upper() %}}" for i in range(2000)),
    "many-splits": "{% set n = namespace(s='a ' * 40000) %}"
    + "".join(f"{{% set n.x{i} = n.s.split() %}}" for i in range(2000)),
    "many-texts-in-a-list": "{% set n = namespace(x=[], s='a' * 4000000) %}{% for i in range(9999) %}"
    "{% set n.x = n.x + [n.s ~ i] %}{% endfor %}",
    "methods-in-a-loop": "{% set s = 'a' * 4000000 %}{% for i in range(9999) %}{% set x = s.upper() ~ s.strip() %}{% endfor %}",
    "wide-characters": "{% set n = namespace(s='\U0001f600' * 2000000) %}"
    + "".join(f"{{% set n.x{i} = n.s ~ {i} %}}" for i in range(2000)),
    "endless-output": "{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}",
    "endless-output-constant": "{% for i in range(99999) %}{% for j in range(99999) %}"
    + "a" * 9999
    + "{% endfor %}{% endfor %}",
    "endless-block": "{% set b %}{% for i in range(99999) %}" + "a" * 9999 + "{% endfor %}{% endset %}{{ b }}",
    "lipsum": "{{ lipsum(100000) }}",
    "batch": "{{ [1] | batch(1000000000, 0) | list }}",
    "slice": "{{ [1] | slice(1000000000, 0) | list }}",
    "wordwrap": "{{ 'a b' | wordwrap(1, wrapstring='a' * 9999999) }}",
    "product-of-lists": "{% set n = namespace(x=[1]) %}{% for i in range(9) %}{% set n.x = n.x * 999 %}{% endfor %}{{ n.x }}",
    "hex-integer": "{{ ('f' * 8000000) | int(0, 16) }}{{ 10 ** 99999 }}",
}

# Defeat the compiler.
SOURCES = {
    "too-long": "a" * 200_000,
    "open-tags": "{{" * 60_000,
    "open-blocks": "{% if x %}" * 10_000,
    "open-comment": "{#" * 60_000,
    "parentheses": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "lists": "{{ " + "[" * 20_000 + "]" * 20_000 + " }}",
    "filters": "{{ x" + "|upper" * 15_000 + " }}",
    "attributes": "{{ x" + ".a" * 30_000 + " }}",
    "nots": "{{ " + "not " * 15_000 + "x }}",
    "minuses": "{{ " + "-" * 100_000 + "1 }}",
    "tildes": "{{ " + "a ~ " * 15_000 + "a }}{{ x.y.z }}",
    "pluses": "{{ " + "a + " * 15_000 + "a }}",
    "loops": "{% for x in y %}" * 400 + "{% endfor %}" * 400,
    "digits": "{{ " + "9" * 100_000 + " }}",
    "float": "{{ 1e999999999 | int }}{{ nothing.x }}",
    "raw": "{% raw %}" * 20_000,
    "unknown-tag": "{% spam %}",
    "syntax": "{% for x in %}",
    "nul": "{{ '\0' }}{{ x.y.z }}",
    "block": "{% block a %}{% endblock %}",
    "variables-and-scoped-blocks": "".join(f"{{%set a{i}=1%}}" for i in range(200))
    + "".join(f"{{%block b{i} scoped%}}{{%endblock%}}" for i in range(200)),
    "many-names": "{{[" + "a," * 60_000 + "]}}",
    "many-branches": "".join(f"{{%if a{i}%}}{{%endif%}}" for i in range(2500)),
    "many-variables-and-branches": "".join(f"{{%set a{i}=1%}}" for i in range(1000)) + "{%if x%}{%endif%}" * 1000,
    "many-choices": "".join(f"{{{{a{i} if b}}}}" for i in range(2500)),
}

# One call each, on the longest text that the budget permits: refused, or over soon. All text methods and all filters.
# Statements one after another, without a loop: each looks through millions of characters. Python lets no other thread
# run meanwhile.
_LONG = "{% set h = 'a' * 8000000 %}{% set n = 'a' * 2000 ~ 'b' ~ 'a' * 2000 %}{% set m = 'a' * 7999999 ~ 'b' %}"
# Keys of one hash, each of which is compared with all before it; and parts of a text, which together are as long.
COLLIDING = (
    "{% set t %}{% for i in range(1, 33000) %}[{{ i * 2305843009213693951 }},0],{% endfor %}[0,0]{% endset %}"
    "{% set d = dict(('[' ~ t ~ ']') | from_json) %}"
)
PARTS = {
    name: "{% set s = 'x😀' ~ 'a' * 3000000 %}" + "".join(f"{{% set s{n} = {made} %}}" for n in range(60))
    for name, made in {
        "partition": "s.partition('x')",
        "rpartition": "s.rpartition('x')",
        "split": "s.split('😀')",
        "rsplit": "s.rsplit('😀')",
        "splitlines": "s.splitlines()",
        "from_json": "(['', s] | tojson) | from_json",
    }.items()
}
STRAIGHT = {
    name: _LONG + statement * 400
    for name, statement in {
        "in": "{% if n in h %}{% endif %}",
        "not in": "{% if n not in h %}{% endif %}",
        "a test in": "{% if n is in(h) %}{% endif %}",
        "a test eq": "{% if h is eq(m) %}{% endif %}",
        "equals": "{% if h == m %}{% endif %}",
        "a chain": "{% if 'a' < h < m %}{% endif %}",
        "select": "{% set x = [n] | select('in', h) | list %}",
        "a condition": "{{ '' if n in h else '' }}",
    }.items()
}
_LETTERS = "{% set s = 'a' * 8000000 %}"
_WORDS = "{% set s = 'ab ' * 2600000 %}"
_LINES = "{% set s = 'ab\\n' * 2600000 %}"
_MANY = "{% set s = range(99999) | map('string') | list %}"
_NEEDLE = "'ab' + 'a' * 4000000"
_LATE_NEEDLE = "'a' * 2000000 + 'b' + 'a' * 2000000"
_CHARACTERS = "'b' * 4000000 + 'a'"
_BARE_METHODS = (
    "capitalize casefold isalnum isalpha isascii isdecimal isdigit islower isnumeric isspace istitle isupper lower "
    "swapcase title upper"
)
METHODS = {
    **{name: _WORDS + f"{{{{ s.{name}() | string | length }}}}" for name in _BARE_METHODS.split()},
    **{name: _LETTERS + f"{{{{ s.{name}(8000000) | length }}}}" for name in ("center", "ljust", "rjust", "zfill")},
    **{
        f"{name} {kind}": _LETTERS + f"{{{{ s.{name}({needle}) | string | length }}}}"
        for name in [
            "count",
            "endswith",
            "find",
            "index",
            "partition",
            "removeprefix",
            "removesuffix",
            "rfind",
            "rindex",
            "rpartition",
            "rsplit",
            "split",
            "startswith",
        ]
        for kind, needle in (("early", _NEEDLE), ("late", _LATE_NEEDLE))
    },
    **{name: _LETTERS + f"{{{{ s.{name}({_CHARACTERS}) | length }}}}" for name in ("lstrip", "rstrip", "strip")},
    "startswith many": _LETTERS + "{{ s.startswith(('a' * 80 + 'b',) * 90000) }}",
    "endswith many": _LETTERS + "{{ s.endswith(('b' + 'a' * 80,) * 90000) }}",
    "split words": _WORDS + "{{ s.split() | length }}",
    "rsplit words": _WORDS + "{{ s.rsplit() | length }}",
    "split letters": _WORDS + "{{ s.split('b') | length }}",
    "splitlines": _LINES + "{{ s.splitlines() | length }}",
    "splitlines form feeds": "{% set s = 'ab\\f' * 2600000 %}{{ s.splitlines() | length }}",
    "replace early": _LETTERS + f"{{{{ s.replace({_NEEDLE}, '') | length }}}}",
    "replace late": _LETTERS + f"{{{{ s.replace({_LATE_NEEDLE}, '') | length }}}}",
    "format": "{{ ('{}' * 4000000).format(1) }}",
    "format braces": "{{ ('{{' * 4000000).format(1) | length }}",
    "format open": "{{ ('{' * 8000000).format(1) }}",
    "format dots": "{{ ('{a' ~ '.a' * 4000000 ~ '}').format(a=1) }}",
    "join": _LETTERS + "{{ 'a'.join(s) | length }}",
}
OPERATORS = {
    "in": _LETTERS + f"{{{{ ({_NEEDLE}) in s }}}}",
    "in late": _LETTERS + f"{{{{ ({_LATE_NEEDLE}) in s }}}}",
    "equal": _LETTERS + "{{ s == 'a' * 7999999 ~ 'b' }}",
    "less": _LETTERS + "{{ s < 'a' * 7999999 ~ 'b' }}",
    "percent": "{{ '%s' * 4000000 % 1 }}",
    "percent open names": "{{ '%(' * 4000000 % {} }}",
    "percent names": "{{ '%(a)s' * 1000000 % {'a': 1} }}",
    "percent of percents": "{{ '%%' * 4000000 % () | length }}",
    "slice": _LETTERS + "{{ s[::-1] | length }}",
}
FILTERS = {
    **{
        name: _WORDS + f"{{{{ s | {name} | string | length }}}}"
        for name in ["capitalize", "count", "d", "default", "e", "escape", "first", "float", "int", "last", "length", "list", "lower", "max", "min", "reverse", "safe", "sort", "string", "title", "tojson", "truncate", "unique", "upper", "wordcount", "indent(0)"]
    },
    "trim": _LETTERS + f"{{{{ s | trim({_CHARACTERS}) | length }}}}",
    "replace": _LETTERS + f"{{{{ s | replace({_NEEDLE}, '') | length }}}}",
    "format": "{{ '%(' * 4000000 | format(1) }}",
    "indent lines": _LINES + "{{ s | indent(0) | length }}",
    "indent": _LINES + "{{ s | indent | length }}",
    "tojson quotes": "{% set s = '\"' * 8000000 %}{{ s | tojson | length }}",
    "float digits": "{{ ('1' * 8000000) | float }}{{ ('0.' ~ '1' * 7000000) | float }}",
    "from_json": "{{ ('\"' ~ 'a' * 7000000 ~ '\"') | from_json | length }}",
    "from_json numbers": "{{ ('[' ~ '1,' * 4000000 ~ '1]') | from_json | length }}",
    "from_json objects": "{{ ('[' ~ '{},' * 40000 ~ '1]') | from_json | length }}",
    "from_json depth": "{{ ('[' * 90000) | from_json }}",
    "from_json nested": "{{ ('[' * 900 ~ ']' * 900) | from_json | length }}",
    "from_json digits": "{{ ('1' * 8000000) | from_json }}",
    "from_json decimals": "{{ ('0.' ~ '1' * 8000000) | from_json }}",
    "from_json escapes": "{{ ('\"' ~ '\\\\u00e9' * 1300000 ~ '\"') | from_json | length }}",
    "round": "{{ 1.5 | round(100) }}",
    "abs": "{{ (0 - 10 ** 1000) | abs }}",
    "items": "{% set s = dict(a='a' * 8000000) %}{{ s | items | list | length }}",
    "dictsort": "{% set s = dict(a='a' * 8000000) %}{{ s | dictsort | length }}",
    **{
        name: _MANY + f"{{{{ s | {name} | list | length }}}}"
        for name in ("join", "map('upper')", "reject('string')", "select('string')", "sort(reverse=true)", "unique",
                     "rejectattr('a')", "selectattr('a')", "sum(start='')", "max", "min")
    },
    "sort long": "{% set s = ['a' * 1000000 ~ 'c', 'a' * 1000000 ~ 'b'] %}{{ s | sort | length }}",
    "unique numbers that collide": "{{ [" + ",".join(str(i * (2**61 - 1)) for i in range(5000)) + "] | unique | list | length }}",
}  # fmt: skip
CALLS = {
    f"{group} {name}": source
    for group, sources in (("method", METHODS), ("operator", OPERATORS), ("filter", FILTERS))
    for name, source in sources.items()
}
