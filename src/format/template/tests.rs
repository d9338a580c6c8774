//! Chat templates as they are written, and what people write to break out of them.

use super::*;
use crate::format::finding::{Findings, Severity};
use crate::format::tests::no_hang;

fn ids(template: &str) -> Vec<&'static str> {
    defects(template.as_bytes()).iter().map(|d| d.rule.id).collect()
}

#[track_caller]
fn refused(table: &[(&str, &str)]) {
    let path = "chat_template.jinja".parse().expect("a path");
    for (template, rule) in table {
        let mut found = Findings::new();
        check(&path, "", template.as_bytes(), &mut found);
        assert!(found.has(rule), "{template}\nshould be {rule}, is {found:?}");
    }
}

#[track_caller]
fn passes(templates: &[&str]) {
    for template in templates {
        let found = defects(template.as_bytes());
        assert!(found.is_empty(), "{template}\nshould pass, is {found:?}");
    }
}

/// Chat templates in the manner of known families, in our own words.
const FIXTURES: [(&str, &str); 6] = [
    (
        "chatml",
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}\
         {% endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    ),
    (
        "header style",
        "{{- bos_token }}\n{%- if not date_string is defined %}{%- if strftime_now is defined %}\
         {%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '1 Jan 2025' %}{%- endif %}{%- endif %}\n\
         {%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content']|trim %}{%- set messages = messages[1:] %}\
         {%- else %}{%- set system = '' %}{%- endif %}\n{%- for m in messages %}\n\
         {%- if not (m.role == 'ipython' or m.role == 'tool' or 'tool_calls' in m) %}\
         {{- '<|start|>' + m['role'] + '<|end|>\\n\\n'+ m['content'] | trim + '<|eot|>' }}\n\
         {%- elif 'tool_calls' in m %}{%- if m.tool_calls|length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}\
         {%- set call = m.tool_calls[0].function %}{%- for name, value in call.arguments | items %}\
         {{- name + '=\"' + value ~ '\"' }}{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}{%- endif %}{%- endfor %}",
    ),
    (
        "instruction style",
        "{%- set ns = namespace(index=0, seen=[]) %}{{ bos_token }}{% for message in messages %}\
         {% if (message['role'] == 'user') != (ns.index % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
         {% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
         {% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% endif %}\
         {%- set ns.index = ns.index + 1 -%}{%- set ns.seen = ns.seen + [message.role] -%}{% endfor %}",
    ),
    (
        "turn style",
        "{{ bos_token }}{%- if messages[0].role == 'system' -%}{%- set first = messages[0].content ~ '\\n' -%}\
         {%- set loop_messages = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set loop_messages = messages -%}{%- endif -%}\
         {%- for message in loop_messages -%}{%- set role = 'model' if message.role == 'assistant' else message.role -%}\
         {{ '<turn>' + role + '\\n' + (first if loop.first else '') }}{%- if message.content is string -%}{{ message.content | trim }}\
         {%- elif message.content is iterable -%}{%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}{{ '<image>' }}\
         {%- elif item.type == 'text' -%}{{ item.text | trim }}{%- endif -%}{%- endfor -%}{%- endif -%}{{ '</turn>\\n' }}{%- endfor -%}",
    ),
    (
        "tools style",
        "{%- macro kind(spec) %}{%- set names = {'string': 'str', 'number': 'float'} %}{%- if names[spec.type] is defined %}\
         {{- names[spec.type] }}{%- elif spec.type == 'array' %}{{- 'list[' ~ kind(spec['items']) ~ ']' }}{%- else %}Any{%- endif %}{%- endmacro %}\
         {%- if tools %}{{- '<tools>' }}{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{{- tool.function.name }}(\
         {%- for name, spec in tool.function.parameters.properties.items() %}{{ name }}: {{ kind(spec) }}{{ ', ' if not loop.last }}{%- endfor %})\
         {%- endfor %}{{- '</tools>' }}{%- endif %}{%- for i in range(messages|length - 1, -1, -1) %}{%- set m = messages[i] %}\
         {%- if m.role == 'tool' and (loop.first or (messages[loop.index0 - 1].role != 'tool')) %}{{ m.content }}{%- endif %}\
         {%- if '</think>' in m.content %}{%- set c = m.content.split('</think>')[-1].lstrip('\\n') %}{{ c }}{%- endif %}{%- endfor %}",
    ),
    (
        "everything else",
        "{#- a comment with {{ x.__class__ }} in it -#}{% raw %}{{ x.__class__ }}{% endraw %}\
         {% set text %}{% generation %}a{% endgeneration %}{% endset %}{{ text | indent(4, true) | upper }}\
         {% filter trim | lower %} X {% endfilter %}{% macro box(a, b='-') %}{{ b ~ caller() ~ a }}{% endmacro %}\
         {% call box(1, b=2) %}in{% endcall %}{% with a = 1, b = 2 %}{{ a + b * 2 ** 3 // 4 % 5 - -1 }}{% endwith %}\
         {% for k, (a, b) in tools | dictsort if k is not none recursive %}{{ loop(a) }}{% if b %}{% break %}{% else %}{% continue %}{% endif %}\
         {% else %}none{% endfor %}{{ [1, 2.5e3, 1_000, 0x1F, (1,), (), {'a': 1,}, 'a' 'b', \"\\u00e9\\x41\\101\\n\"] }}\
         {{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(', ') }}{{ 'a{}b{0}{{x}}'.format(1) }}\
         {{ 1 < 2 <= 3 != 4, 'a' not in 'b', not true is false, x is divisibleby 3 or y is sameas none }}{{ 'x' * 3 }}{{ messages[-1]['content'][::-1] }}",
    ),
];

#[test]
fn templates_in_the_manner_of_known_ones_pass() {
    for (name, template) in FIXTURES {
        assert!(defects(template.as_bytes()).is_empty(), "{name}: {:?}", defects(template.as_bytes()));
    }
}

/// As GigaChat's and functionary's do it.
#[test]
fn macros_that_call_themselves_with_more_and_fields_named_as_methods_pass() {
    passes(&[
        "{%- macro show(schema, indent='') -%}{%- set props = schema.get('properties', {}) -%}\
         {%- for key, val in props.items() -%}{%- set kind = val['type'].strip() -%}\
         {{ indent + '// ' + key + kind }}{{ show(val, indent + '  ') }}{%- endfor -%}{%- endmacro -%}\
         {%- for tool in tools -%}{{ show(tool.function.parameters) }}{%- endfor -%}",
        "{%- macro kind(param) -%}{%- if 'format' in param -%}{{ param['format'] }}{%- endif -%}{%- endmacro -%}\
         {%- for tool in tools -%}{%- set param = tool['a'] or 'a' ~ tool['b'] -%}{{ kind(param) }}{%- endfor -%}",
    ]);
    refused(&[("{% set x = messages[0] or '{0.a}' %}{{ {'count': x['format']}.count(x) }}", "template.format")]);
}

#[test]
fn real_templates_pass() {
    let Some(folder) = std::env::var_os("SECUREREG_TEMPLATES") else { return };
    let mut checked = 0;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("the folder of templates") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "jinja") {
            checked += 1;
            let text = std::fs::read(&path).expect("a template");
            for defect in defects(&text) {
                let line = text.iter().take(defect.at).filter(|b| **b == b'\n').count() + 1;
                found.push(format!("{}:{line}: {}: {}", path.display(), defect.rule.id, defect.message));
            }
        }
    }
    assert!(checked > 0, "{folder:?} has no templates");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_known_payloads_are_refused() {
    refused(&[
        ("{{''.__class__.__mro__[1].__subclasses__()}}", "template.attribute"),
        ("{{ ''.__class__ }}", "template.attribute"),
        ("{{ [].__class__.__base__.__subclasses__() }}", "template.attribute"),
        ("{% for c in [].__class__.__base__.__subclasses__() %}{% endfor %}", "template.attribute"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "template.name"),
        ("{{ joiner.__init__.__globals__.os.popen('id').read() }}", "template.name"),
        ("{{ namespace.__init__.__globals__.os.popen('id').read() }}", "template.attribute"),
        ("{{ lipsum.__globals__['os'].popen('id').read() }}", "template.name"),
        ("{{ lipsum() }}", "template.name"),
        ("{{ self.__init__.__globals__.__builtins__.__import__('os').popen('id').read() }}", "template.name"),
        ("{{ self._TemplateReference__context.cycler.__init__.__globals__.os }}", "template.name"),
        ("{{ request.application.__globals__ }}", "template.name"),
        ("{{ cycler is defined }}", "template.name"),
        ("{{ request['__class__'] }}", "template.attribute"),
        ("{{ config.items() }}", "template.name"),
        ("{{ config.from_pyfile('x') }}", "template.call"),
        ("{{ url_for.__globals__ }}", "template.name"),
        ("{{ get_flashed_messages.__globals__ }}", "template.name"),
        ("{{ messages.__len__ }}", "template.attribute"),
        ("{{ messages['__class__'] }}", "template.attribute"),
        (r#"{{ messages["\x5f\x5fclass\x5f\x5f"] }}"#, "template.attribute"),
        (r#"{{ messages["\137\137class\137\137"] }}"#, "template.attribute"),
        (r#"{{ messages["\u005f\U0000005fclass__"] }}"#, "template.attribute"),
        ("{{ messages['__cl' 'ass__'] }}", "template.attribute"),
        ("{{ messages['__cl\\\nass__'] }}", "template.attribute"),
        ("{{ messages['__cl'~'ass__'] }}", "template.attribute"),
        ("{{ messages['__cl'+'ass__'] }}", "template.attribute"),
        ("{{ x|attr('__class__') }}", "template.filter"),
        ("{{ x|attr('__cl'+'ass__') }}", "template.filter"),
        ("{{ x | attr(['__', 'class', '__']|join) }}", "template.filter"),
        ("{{ ()|map(attribute='__class__')|list }}", "template.attribute"),
        ("{{ ()|map(attribute='a.__class__')|list }}", "template.attribute"),
        ("{{ [x]|map('attr', '__class__')|list }}", "template.filter"),
        ("{{ [x]|map('format', 1)|list }}", "template.filter"),
        ("{{ [x]|map('map', attribute='__class__')|list }}", "template.filter"),
        ("{{ [x]|map('sort', attribute='__class__')|list }}", "template.filter"),
        ("{{ [x]|map('join', '', '__class__')|list }}", "template.filter"),
        ("{{ [x]|map('join', attribute='__class__')|list }}", "template.filter"),
        ("{{ [x]|map('select', 'a')|list }}", "template.filter"),
        ("{{ [x]|map('reject', 'a')|list }}", "template.filter"),
        ("{{ [x]|map('trim' if y else z)|list }}", "template.index"),
        ("{{ [x]|map(attribute='a' if y else z)|list }}", "template.index"),
        ("{{ [x]|map(y)|list }}", "template.index"),
        ("{{ [x]|selectattr('__class__')|list }}", "template.attribute"),
        ("{{ [x]|rejectattr('__class__', 'none')|list }}", "template.attribute"),
        ("{{ [x]|groupby('__class__') }}", "template.attribute"),
        ("{{ [x]|groupby(attribute='__class__') }}", "template.attribute"),
        ("{{ [x]|sort(attribute='role,__class__') }}", "template.attribute"),
        ("{{ [x]|sort(false, false, '__class__') }}", "template.attribute"),
        ("{{ [x]|sum('__class__') }}", "template.attribute"),
        ("{{ [x]|sum(attribute='__class__') }}", "template.attribute"),
        ("{{ [x]|min(attribute='__class__') }}", "template.attribute"),
        ("{{ [x]|max(false, '__class__') }}", "template.attribute"),
        ("{{ [x]|unique(attribute='__class__') }}", "template.attribute"),
        ("{{ [x]|join('', '__class__') }}", "template.attribute"),
        ("{{ [x]|join(attribute='__class__') }}", "template.attribute"),
        ("{{ [x]|map(attribute=bos_token) }}", "template.index"),
        ("{{ [x]|map(attribute='__cl'|upper) }}", "template.index"),
        ("{{ [x]|select('unknown') }}", "template.test"),
        ("{{ [x]|selectattr('a', 'unknown') }}", "template.test"),
        ("{{ x is unknown }}", "template.test"),
        ("{{ x|unknown }}", "template.filter"),
        ("{{ x|first.__class__ }}", "template.filter"),
        ("{{ '{0.__class__}'.format(x) }}", "template.format"),
        ("{{ '{0[__class__]}'.format(x) }}", "template.format"),
        ("{{ '{:>9999999}'.format(x) }}", "template.format"),
        ("{{ '{!r}'.format(x) }}", "template.format"),
        ("{{ '{_x}'.format(x) }}", "template.format"),
        ("{{ '}'.format(x) }}", "template.format"),
        ("{{ bos_token.format(messages) }}", "template.format"),
        ("{{ messages[0].content.format(messages) }}", "template.format"),
        ("{{ ('{0.__cla' ~ 'ss__}').format(x) }}", "template.format"),
        ("{{ '{0.__class__}'.format_map(x) }}", "template.attribute"),
        ("{{ ('{0.__class__}'|safe).format(x) }}", "template.format"),
        ("{{ ('a' if y else messages[0].role).format(x) }}", "template.format"),
        ("{{ '%s'|format(x) }}", "template.filter"),
        ("{{ '{0.__class__}'|attr('format')(x) }}", "template.filter"),
        ("{% set f = '{0.__class__}'.format %}{{ f(x) }}", "template.call"),
        ("{{ x.append.__self__ }}", "template.attribute"),
        ("{{ x() }}", "template.call"),
        ("{{ x.read() }}", "template.call"),
        ("{{ x[0]() }}", "template.call"),
        ("{{ (x or y)(1) }}", "template.call"),
        ("{{ [x][0](1) }}", "template.call"),
        ("{{ x.a.b.c() }}", "template.call"),
        ("{{ dict(*x) }}", "template.call"),
        ("{{ dict(**x) }}", "template.call"),
        ("{{ [x]|map(*['attr', '__class__'])|list }}", "template.call"),
        ("{{ [x]|map(**{'attribute': '__class__'})|list }}", "template.call"),
        ("{{ namespace(__class__=1) }}", "template.attribute"),
        ("{% set n = namespace() %}{% set n.__class__ = x %}", "template.attribute"),
        ("{% set __builtins__ = 1 %}", "template.name"),
        ("{{ __builtins__ }}", "template.name"),
        ("{{ range }}", "template.call"),
        ("{{ (range|string)[1] }}", "template.call"),
        ("{% set range = x %}{{ range(1) }}", "template.call"),
        ("{% macro m(f) %}{{ f('x') }}{% endmacro %}{% macro f(a) %}{% endmacro %}{{ m(''.format) }}", "template.call"),
        ("{% for strftime_now in x %}{{ strftime_now(1) }}{% endfor %}", "template.call"),
        ("{% with dict = x %}{{ dict(1) }}{% endwith %}", "template.call"),
        ("{{ super() }}", "template.name"),
        ("{{ caller() }}", "template.call"),
        ("{{ loop(x) }}", "template.call"),
        ("{% include 'x' %}", "template.statement"),
        ("{% import 'x' as y %}", "template.statement"),
        ("{% from 'x' import y with context %}", "template.statement"),
        ("{% extends '/etc/passwd' %}", "template.statement"),
        ("{% block a %}{% endblock %}", "template.statement"),
        ("{% debug %}", "template.statement"),
        ("{% raw +%}{% endraw %}", "template.statement"),
        ("{% do x.append(1) %}", "template.statement"),
        ("{% print x %}", "template.statement"),
        ("{% autoescape true %}{% endautoescape %}", "template.statement"),
        ("{% trans %}x{% endtrans %}", "template.statement"),
        ("{{ x.func_globals }}{{ x.gi_frame }}", "template.attribute"),
        ("{{ x.mro() }}", "template.attribute"),
        ("{{ x['mro'] }}", "template.attribute"),
        ("{{ x.environment }}", "template.attribute"),
    ]);
}

#[test]
fn payloads_hidden_in_statements_are_refused() {
    refused(&[
        ("{% set x %}{{ ''.__class__ }}{% endset %}", "template.attribute"),
        ("{% set x | attr('a') %}{% endset %}", "template.filter"),
        ("{% macro m(a=''.__class__) %}{% endmacro %}", "template.attribute"),
        ("{% macro m() %}{{ a.__class__ }}{% endmacro %}", "template.attribute"),
        ("{% call m(''.__class__) %}{% endcall %}", "template.attribute"),
        ("{% macro m() %}{% endmacro %}{% call(a=''.__class__) m() %}{% endcall %}", "template.attribute"),
        ("{% macro m() %}{% endmacro %}{% call m() %}{{ a.__class__ }}{% endcall %}", "template.attribute"),
        ("{% filter attr('a') %}{% endfilter %}", "template.filter"),
        ("{% filter trim | attr('a') %}{% endfilter %}", "template.filter"),
        ("{% filter replace('a', x.__class__) %}{% endfilter %}", "template.attribute"),
        ("{% with a = x.__class__ %}{% endwith %}", "template.attribute"),
        ("{% if x.__class__ %}{% endif %}", "template.attribute"),
        ("{% if y %}{% elif x.__class__ %}{% endif %}", "template.attribute"),
        ("{% if y %}{% else %}{{ x.__class__ }}{% endif %}", "template.attribute"),
        ("{% for a in b if a.__class__ %}{% endfor %}", "template.attribute"),
        ("{% for a in b %}{% else %}{{ x.__class__ }}{% endfor %}", "template.attribute"),
        ("{% for a in x.__class__ recursive %}{% endfor %}", "template.attribute"),
        ("{% set a.b = x.__class__ %}", "template.attribute"),
        ("{% set a, b = x.__class__ %}", "template.attribute"),
        ("{% generation %}{{ x.__class__ }}{% endgeneration %}", "template.attribute"),
        ("{{ {'a': x.__class__} }}", "template.attribute"),
        ("{{ {x.__class__: 1} }}", "template.attribute"),
        ("{{ x[1:y.__class__] }}", "template.attribute"),
        ("{{ x is divisibleby y.__class__ }}", "template.attribute"),
        ("{{ x is eq(y.__class__) }}", "template.attribute"),
        ("{{ 1 if x.__class__ else 2 }}", "template.attribute"),
        ("{{ x if y else z.__class__ }}", "template.attribute"),
        ("{{ not -x.__class__ }}", "template.attribute"),
        ("{{ x.__class__ is defined }}", "template.attribute"),
        ("{{ x|default(y.__class__) }}", "template.attribute"),
        ("{{ x|default(value=y.__class__) }}", "template.attribute"),
        ("{{- x.__class__ -}}", "template.attribute"),
        ("{{+x.__class__ }}", "template.attribute"),
        ("{%+ if x.__class__ +%}{%- endif -%}", "template.attribute"),
        ("{{\nx\n.\n__class__\n}}", "template.attribute"),
        ("{{ x\t.\t__class__ }}", "template.attribute"),
        ("{# {{ #}{{ x.__class__ }}{# }} #}", "template.attribute"),
        ("{#{% raw %}#}{{ x.__class__ }}{#{% endraw %}#}", "template.attribute"),
        ("{% raw %}{% endraw %}{{ x.__class__ }}{% raw %}{% endraw %}", "template.attribute"),
        ("{%- raw -%}{%- endraw -%}{{ x.__class__ }}", "template.attribute"),
        ("{% raw %}{% raw %}{% endraw %}{{ x.__class__ }}", "template.attribute"),
        ("{{ '{#' }}{{ x.__class__ }}{{ '#}' }}", "template.attribute"),
        ("{{ \"}}\" ~ x.__class__ }}", "template.attribute"),
        ("{{ '\\'}}' ~ x.__class__ }}", "template.attribute"),
        ("{{{'a': {'b': x.__class__}}}}", "template.attribute"),
        ("{{{{ x.__class__ }}}}", "template.syntax"),
    ]);
}

#[test]
fn names_that_a_template_puts_together_are_not_looked_up() {
    refused(&[
        ("{% set a = '__cla' %}{% set b = 'ss__' %}{{ x[a ~ b] }}", "template.attribute"),
        ("{% set a = '__cla' %}{{ x[a ~ y ~ 'ss__'] }}", "template.index"),
        ("{{ x['_'~'_class_'~'_'] }}", "template.attribute"),
        ("{% for a in ['__class__'] %}{{ x[a] }}{% endfor %}", "template.attribute"),
        ("{% for a, b in [('__class__', 1)] %}{{ x[a] }}{% endfor %}", "template.attribute"),
        ("{% for a in {'__class__': 1} %}{{ x[a] }}{% endfor %}", "template.attribute"),
        ("{% for a, b in {'z': '__class__'}.items() %}{{ x[b] }}{% endfor %}", "template.attribute"),
        (
            "{% for a in ['role'] %}{% set b = loop.previtem %}{% for c in ['__class__'] %}{{ x[loop.previtem] }}{% endfor %}{% endfor %}",
            "template.attribute",
        ),
        ("{% for a in b recursive %}{{ x[a] }}{{ loop(['__class__', b]) }}{% endfor %}", "template.attribute"),
        ("{{ x[['__', 'class__']|join] }}", "template.index"),
        ("{{ x[''.join(['__', 'class__'])] }}", "template.index"),
        ("{{ x['__CLASS__'|lower] }}", "template.index"),
        ("{{ x['__CLASS__'.lower()] }}", "template.index"),
        ("{{ x['__ssalc__'[::-1]] }}", "template.index"),
        ("{{ x['__ssalc__'|reverse] }}", "template.index"),
        ("{{ x['aa__class__'[2:]] }}", "template.index"),
        ("{{ x['%sclass__' % '__'] }}", "template.index"),
        ("{{ x['{}class__'.format('__')] }}", "template.index"),
        ("{{ x['..class..'|replace('.', '_')] }}", "template.index"),
        ("{{ x['..class..'.replace('.', '_')] }}", "template.index"),
        ("{{ x[messages[0].content.replace('.', '_')] }}", "template.index"),
        ("{{ x[messages[0].content|replace('.', '_')] }}", "template.index"),
        ("{{ x['a,__class__'.split(',')[1]] }}", "template.index"),
        ("{{ x['_' * 2 ~ 'class__'] }}", "template.index"),
        ("{{ x[dict(__class__=1)|first] }}", "template.attribute"),
        ("{{ x[dict(__cla=1, ss__=2)|join] }}", "template.index"),
        ("{{ x[{'a': '__class__'}['a']] }}", "template.attribute"),
        ("{{ x[{'a': '__class__'}.a] }}", "template.attribute"),
        ("{{ x[{'a': '__class__'}.get('a')] }}", "template.attribute"),
        ("{{ x[{}.get('a', '__class__')] }}", "template.attribute"),
        ("{{ x[['__class__'].pop()] }}", "template.attribute"),
        ("{{ x[['__class__'][0]] }}", "template.attribute"),
        ("{{ x[(['a'] + ['__class__'])[1]] }}", "template.attribute"),
        ("{{ x[['__class__']|first] }}", "template.attribute"),
        ("{{ x[['__class__']|list|last] }}", "template.attribute"),
        ("{{ x[['__class__']|map('trim')|first] }}", "template.index"),
        ("{{ x[y|default('__class__')] }}", "template.attribute"),
        ("{{ x[0|int('__class__')] }}", "template.attribute"),
        ("{{ x[[]|sum(start='__class__')] }}", "template.attribute"),
        ("{{ x['__class__'|safe] }}", "template.attribute"),
        ("{{ x['__class__'|string] }}", "template.index"),
        ("{{ x['\"\\\\u005f\"'|from_json] }}", "template.index"),
        ("{{ x[('\"a\"'|from_json)[0]] }}", "template.index"),
        ("{{ x['__class__' if y else 1] }}", "template.attribute"),
        ("{{ x['__class__' if y] }}", "template.attribute"),
        ("{{ x['a' if t if u else '__class__'] }}", "template.attribute"),
        ("{{ x['__class__' if t else y if u else 1] }}", "template.attribute"),
        ("{{ x[('__class__',)[0]] }}", "template.attribute"),
        ("{{ x['m\\x72o'] }}", "template.attribute"),
        ("{{ x['m\\u0072o'] }}", "template.attribute"),
        ("{{ x['m\\U00000072o'] }}", "template.attribute"),
        ("{{ x[{'index': '__class__'}.index] }}", "template.attribute"),
        ("{% set loop = {'index': '__class__'} %}{{ x[loop.index] }}", "template.attribute"),
        ("{% for a in [0] %}{% else %}{{ x[a] }}{% endfor %}", "template.index"),
        ("{% for k in dict(__class__=1).keys() - [] %}{{ x[k] }}{% endfor %}", "template.attribute"),
        ("{% set n = namespace() %}{% set n.a = '__class__' %}{{ x[n[messages[0].role]] }}", "template.index"),
        ("{{ x[('a' if y else z) ~ 'b'] }}", "template.index"),
        ("{{ x[messages[0].content % '__class__'] }}", "template.index"),
        ("{{ x[1 if y else '__class__'] }}", "template.attribute"),
        ("{{ x[y or '__class__'] }}", "template.attribute"),
        ("{{ x[1 and '__class__'] }}", "template.attribute"),
        ("{{ x[loop.cycle('__class__')] }}", "template.attribute"),
        ("{% macro m(a) %}{{ x[a] }}{% endmacro %}{{ m('__class__') }}", "template.attribute"),
        ("{% macro m(a) %}{{ x[a] }}{% endmacro %}{{ m(a='__class__') }}", "template.attribute"),
        ("{% macro m(a='__class__') %}{{ x[a] }}{% endmacro %}", "template.attribute"),
        ("{% macro m() %}__class__{% endmacro %}{{ x[m()] }}", "template.index"),
        ("{% macro m() %}{{ x[caller()] }}{% endmacro %}{% call m() %}__class__{% endcall %}", "template.index"),
        (
            "{% macro m() %}{{ caller('__class__') }}{% endmacro %}{% call(a) m() %}{{ x[a] }}{% endcall %}",
            "template.index",
        ),
        ("{% macro m() %}{{ x[varargs[0]] }}{% endmacro %}{{ m('__class__') }}", "template.index"),
        ("{% macro m() %}{{ x[kwargs['a']] }}{% endmacro %}{{ m(a='__class__') }}", "template.index"),
        ("{% macro zz() %}{% endmacro %}{{ x[(zz|string)[7:]] }}", "template.index"),
        ("{% set n = namespace(a='__class__') %}{{ x[n.a] }}", "template.attribute"),
        ("{% set n = namespace(a=1) %}{% set n.a = '__class__' %}{{ x[n.a] }}", "template.attribute"),
        (
            "{% set n = namespace() %}{% set m = [n] %}{% set n.a = '__class__' %}{{ x[m[0]['a']] }}",
            "template.attribute",
        ),
        (
            "{% set n = namespace() %}{% set n.a = '__class__' %}{{ x[([n]|map(attribute='a')|list)[0]] }}",
            "template.attribute",
        ),
        (
            "{% set n = namespace() %}{% for i in y %}{{ x[n.a] }}{% set n.a = n.b %}{% set n.b = '__class__' %}{% endfor %}",
            "template.attribute",
        ),
        ("{% set l = [] %}{% set m = l %}{% set _ = m.append('__class__') %}{{ x[l[0]] }}", "template.attribute"),
        ("{% set l = {} %}{% set _ = l.update({'a': '__class__'}) %}{{ x[l.a] }}", "template.attribute"),
        (
            "{% set l = [] %}{% set _ = l.extend(['__class__']) %}{% for a in l %}{{ x[a] }}{% endfor %}",
            "template.attribute",
        ),
        ("{% set _ = messages.append('__class__') %}{{ x[messages[0]] }}", "template.attribute"),
        ("{% set a %}__class__{% endset %}{{ x[a] }}", "template.index"),
        ("{% with a = '__class__' %}{{ x[a] }}{% endwith %}", "template.attribute"),
        ("{% set a, b = '__class__', 1 %}{{ x[b] }}", "template.attribute"),
        ("{% if y %}{% set i = 0 %}{% endif %}{{ x[i] }}", "template.index"),
        ("{{ x[bos_token] }}", "template.index"),
        ("{{ x[any_name_at_all] }}", "template.index"),
        ("{{ x[strftime_now('__class__')] }}", "template.index"),
        ("{{ x[messages|tojson] }}", "template.index"),
        ("{{ x[messages[0].a ~ messages[0].b] }}", "template.index"),
        ("{{ x[messages[0].a + messages[0].b] }}", "template.index"),
    ]);
    passes(&[
        "{{ messages[0] }}{{ messages[-1] }}{{ messages[1:] }}{{ x.0 }}",
        "{% for m in messages %}{{ messages[loop.index0 - 1].role }}{{ messages[loop.index0 + 1] }}{% endfor %}",
        "{% for k, v in messages[0].items() %}{{ messages[0][k] }}{% endfor %}",
        "{% for k in messages[0] %}{{ messages[0][k] }}{% endfor %}",
        "{% for k in ['role', 'content'] %}{{ messages[0][k] }}{% endfor %}",
        "{{ x['ro' ~ 'le'] }}",
        "{% if y %}{% set i = 0 %}{% else %}{% set i = 1 %}{% endif %}{{ x[i] }}",
        "{{ {'a': 1}[messages[0].role] }}",
        "{{ x[messages[0].content.split('_')[0]] }}",
        "{{ '__class__' }}{{ ['__class__'] }}{{ '__class__' in x }}",
        "{{ x.get('_private') }}",
        "{% set i = messages | length - 1 %}{{ messages[i % 2] }}",
        "{{ x[none] }}{% set i = true %}{{ x[i] }}",
        "{% set i = 0 if x else raise_exception('no') %}{{ messages[i] }}",
        "{% for m in [bos_token] %}{{ messages[loop.index0] }}{% endfor %}",
        "{{ messages[messages[0].n + 1] }}",
        "{{ x[messages[0].content % messages[1].content] }}",
        "{{ x is string or y is none and z }}{{ 1 if x is string else 2 }}",
        "{% set n = namespace(a='_x') %}{{ messages[messages[0].a] }}",
        "{% set l = [] %}{{ l.append('_x') }}{{ messages[messages[0].role] }}",
        "{% set l = [] %}{{ l.append('a') }}{{ x[l[0]] }}",
        "{{ messages.append('a') }}{{ x[messages[0]] }}",
        "{% set n = namespace(i=0, l=[]) %}{{ n.l.append(bos_token) }}{{ messages[n.i] }}",
        "{% set l = [] %}{{ l.append(bos_token) }}{% for k in ['role'] %}{{ x[k] }}{% endfor %}",
        "{% set k = 0 %}{% for m in tools %}{% set o = loop %}{{ x[k] }}{% endfor %}",
        "{% set k = 0 %}{% for m in tools recursive %}{% set o = loop %}{{ x[k] }}{% endfor %}",
        "{% for k in [{'a': 'role'}] | map(attribute='a') %}{{ x[k] }}{% endfor %}",
        "{% for m in messages %}{{ m.format }}{{ x[m.format] }}{% endfor %}{{ 'a{}'.format }}",
    ]);
}

#[test]
fn work_without_bound_is_refused() {
    refused(&[
        ("{% for i in range(1000001) %}{% endfor %}", "template.exhaustion"),
        ("{{ range(0, 10 ** 9) | list }}", "template.exhaustion"),
        ("{% set n = 10 ** 9 %}{% for i in range(n) %}{% endfor %}", "template.exhaustion"),
        ("{% for i in range(1001) %}{% for j in range(1000) %}{% endfor %}{% endfor %}", "template.exhaustion"),
        (
            "{% macro a() %}{% for i in range(2000) %}x{{ 1 }}{% endfor %}{% endmacro %}{% for i in range(6000) %}{{ a() }}{% endfor %}",
            "template.exhaustion",
        ),
        ("{{ 'a' * 1000001 }}", "template.exhaustion"),
        ("{{ 1000001 * 'a' }}", "template.exhaustion"),
        ("{{ [1] * 10 ** 9 }}", "template.exhaustion"),
        ("{{ 9 ** 9 ** 9 }}", "template.exhaustion"),
        ("{{ 2 ** 50 }}", "template.exhaustion"),
        ("{{ x | center(1000001) }}", "template.exhaustion"),
        ("{{ x | indent(1000001) }}", "template.exhaustion"),
        ("{{ x | indent(width=1000001) }}", "template.exhaustion"),
        ("{{ x | tojson(indent=1000001) }}", "template.exhaustion"),
        ("{{ x | batch(1000001, 0) }}", "template.exhaustion"),
        ("{{ x | slice(1000001) }}", "template.exhaustion"),
        ("{{ x | round(1000001) }}", "template.exhaustion"),
        ("{{ '%1000001d' % 1 }}", "template.exhaustion"),
        ("{{ '%.1000001f' % 1 }}", "template.exhaustion"),
        ("{{ strftime_now('%1000001Y') }}", "template.exhaustion"),
        ("{{ 'a' | replace('a', 'x' * 10000) | replace('x', 'y' * 10000) }}", "template.exhaustion"),
        ("{% set n = namespace(a='aa') %}{% for i in x %}{% set n.a = n.a ~ n.a %}{% endfor %}", "template.exhaustion"),
        (
            "{% set n = namespace(a='aa') %}{% for i in x %}{% set n.a = n.a + 'b' + n.a %}{% endfor %}",
            "template.exhaustion",
        ),
        (
            "{% set n = namespace(a='aa') %}{% for i in x %}{% set n.a = [n.a, n.a] | join %}{% endfor %}",
            "template.exhaustion",
        ),
        (
            "{% set n = namespace(a='aa') %}{% for i in x %}{% set n.a = '{0}{1}'.format(n.a, n.a) %}{% endfor %}",
            "template.exhaustion",
        ),
        ("{% set n = namespace(a='aa') %}{% for i in x %}{% set n.a = n.a * 2 %}{% endfor %}", "template.exhaustion"),
        (
            "{% set n = namespace(a='aa') %}{% for i in x %}{% set n.a %}{{ n.a }}{{ n.a }}{% endset %}{% endfor %}",
            "template.exhaustion",
        ),
        ("{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(40) }}", "template.exhaustion"),
        ("{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}", "template.exhaustion"),
        ("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", "template.exhaustion"),
        ("{% for i in messages recursive %}{{ loop(messages) }}{% endfor %}", "template.exhaustion"),
        ("{% macro f(a, b) %}{{ f(a, b) }}{% endmacro %}{{ f(messages, tools) }}", "template.exhaustion"),
        ("{% for i in range(1000000) %}{{ 'a' * 1000000 }}{% endfor %}", "template.exhaustion"),
        ("{% for i in range(1000) %}{{ x | center(1000000) }}{% endfor %}", "template.exhaustion"),
        ("{{ 'aaaaaaaaaa' * 100001 }}", "template.exhaustion"),
        ("{{ ['aaaaaaaaaa'] | join * 100001 }}", "template.exhaustion"),
        ("{{ '%5.1000001f' % 1 }}", "template.exhaustion"),
        ("{{ x.strftime('%1000001Y') }}", "template.exhaustion"),
        ("{{ [1] * 300000 + [1] * 300000 }}", "template.exhaustion"),
        ("{{ ('a' * 600000).strip() ~ ('a' * 600000).strip() }}", "template.exhaustion"),
        ("{{ ([1] | join('b' * 600000)) ~ ([1] | join('b' * 600000)) }}", "template.exhaustion"),
        ("{% for i in range(1000002 - 1) %}{% endfor %}", "template.exhaustion"),
        ("{% set a %}{{ 'a' * 600000 }}{{ 'a' * 600000 }}{% endset %}", "template.exhaustion"),
        ("{% set a %}{{ 'a' * 600000 }}{% endset %}{{ a ~ a }}", "template.exhaustion"),
        ("{% set a %}{% for i in range(1000) %}{{ 'a' * 1001 }}{% endfor %}{% endset %}", "template.exhaustion"),
        ("{% macro f(n) %}{{ f(n % 7) }}{{ f(n % 5) }}{% endmacro %}{{ f(3) }}", "template.exhaustion"),
        ("{% macro f(n) %}{{ f(7 % 5) }}{% endmacro %}{{ f(3) }}", "template.exhaustion"),
        ("{% macro f(n) %}{{ f(n.strip('a')) }}{% endmacro %}{{ f('a') }}", "template.exhaustion"),
    ]);
    passes(&[
        "{% for i in range(1000000) %}{% endfor %}",
        "{% for i in range(1000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 1000000 }}{{ x | indent(1000000) }}{{ '%1000000d' % 1 }}{{ 10 ** 15 }}",
        "{% set n = namespace(a='') %}{% for i in x %}{% set n.a = n.a ~ i ~ 'b' %}{% endfor %}",
        "{% macro f(n) %}{% for k in n %}{{ f(k) }}{{ f(n[k]) }}{% endfor %}{% endmacro %}{{ f(messages) }}",
        "{% for m in messages recursive %}{{ loop(m.children) }}{% endfor %}",
        "{% for m in messages recursive %}{{ loop([m.x, m.y]) }}{% endfor %}",
        "{% set a %}{{ 'a' * 500000 }}{{ 'a' * 500000 }}{% endset %}",
        "{% for i in range(2000) %}{% endfor %}{% for i in range(2000) %}{% endfor %}",
        "{{ 2 * 1000001 }}{{ 2 * 3 * 1000001 }}{{ (2 + 3) * 1000001 }}{{ x | default(1000001) }}",
        "{% macro f(n) %}{% if n %}{{ f([n.a, n.b]) }}{% endif %}{% endmacro %}{{ f(messages) }}",
        "{% macro f(n) %}{{ f(n.removeprefix('a')) }}{% endmacro %}{{ f(messages) }}",
        "{% macro f(n) %}{% for k in n + [] %}{{ f(k) }}{% endfor %}{% endmacro %}{{ f(messages) }}",
        "{% macro f(n) %}{% for k in n + [] %}{{ f(k) }}{% endfor %}{% endmacro %}{{ f(words) }}",
        "{% macro f(n) %}{% for k in n.split() %}{{ f(k) }}{% endfor %}{% endmacro %}{{ f(words) }}",
        "{% macro f(a) %}{% for b in a %}{{ g(b) }}{% endfor %}{% endmacro %}{% macro g(c) %}{{ f(c) }}{% endmacro %}{{ f(messages) }}",
    ]);
    for long in [
        "'aaaaaaaaaa' * 100000",
        "[0, 0] * 300000",
        "('a' * 1000000).strip()",
        "('a' * 1000000) ~ ''",
        "x | replace('a', 'b' * 1000000)",
        "[1] | join('b' * 900000)",
    ] {
        let looped =
            |inner: &str| format!("{{% for i in {long} %}}{{% for j in {inner} %}}{{% endfor %}}{{% endfor %}}");
        passes(&[&looped("x")]);
        refused(&[(&looped("'ab'"), "template.exhaustion")]);
    }
    let captured = "{% set a %}{{ 'a' * 2000 }}{% endset %}{% for i in a %}{% for j in a %}{% endfor %}{% endfor %}";
    refused(&[(captured, "template.exhaustion")]);
    let tens = |n: usize| format!("{}{}", "{% for i in [0,0,0,0,0,0,0,0,0,0] %}".repeat(n), "{% endfor %}".repeat(n));
    passes(&[&tens(6)]);
    refused(&[(&tens(7), "template.exhaustion")]);
    let steps = |n: usize| {
        format!("{{% for i in range(999999) %}}{}{{% endfor %}}{}", "{{ 1 }}".repeat(9), "{{ 1 }}".repeat(n))
    };
    passes(&[&steps(9)]);
    refused(&[(&steps(10), "template.exhaustion")]);
    let mut doubling = String::from("{% set a0 = 'aaaaaaaaaa' %}");
    for i in 0..20 {
        doubling.push_str(&format!("{{% set a{} = a{i} ~ a{i} %}}", i + 1));
    }
    refused(&[(&doubling, "template.exhaustion")]);
    let mut laughs = String::from("{% macro m0() %}ha{% endmacro %}");
    for i in 0..30 {
        laughs.push_str(&format!("{{% macro m{}() %}}{{{{ m{i}() }}}}{{{{ m{i}() }}}}{{% endmacro %}}", i + 1));
    }
    passes(&[&laughs]);
    laughs.push_str("{{ m30() }}");
    refused(&[(&laughs, "template.exhaustion")]);
}

#[test]
fn what_is_no_jinja_is_refused() {
    for template in [
        "{{ x",
        "{{ x }",
        "{% if x %}",
        "{% endif %}",
        "{# x",
        "{% raw %}",
        "{% raw %}{% endraw",
        "{{ 'x }}",
        "{{ }}",
        "{{ x y }}",
        "{{ x + }}",
        "{{ (x }}",
        "{{ x) }}",
        "{{ [x) }}",
        "{{ x[] }}",
        "{{ x[1, 2] }}",
        "{{ x[1:2, 3] }}",
        "{{ {'a'} }}",
        "{{ {'a': } }}",
        "{{ {'a': 1 'b': 2} }}",
        "{{ x. }}",
        "{{ x.'a' }}",
        "{{ x| }}",
        "{{ x is }}",
        "{{ x is string is none }}",
        "{{ x is string if y }}",
        "{{ a == not b }}",
        "{{ and }}",
        "{{ x and }}",
        "{{ x if }}",
        "{{ x else y }}",
        "{{ x if y else }}",
        "{{ f(a=1, 2) }}",
        "{{ f(a=1 b=2) }}",
        "{{ f(,) }}",
        "{{ x|f[0] }}",
        "{{ ; }}",
        "{{ $ }}",
        "{{ x ? y }}",
        "{{ x ! y }}",
        "{{ 1a }}",
        "{{ 0x }}",
        "{{ 1__0 }}",
        "{{ 012 }}",
        "{{ \"\\xg0\" }}",
        "{{ \"\\u12\" }}",
        "{{ \"\\U99999999\" }}",
        "{{ \"\\N{LOW LINE}\" }}",
        "{% %}",
        "{% 1 %}",
        "{% set %}",
        "{% set x.y.z = 1 %}",
        "{% set x['a'] = 1 %}",
        "{% set true = 1 %}",
        "{% set x = %}",
        "{% for %}{% endfor %}",
        "{% for x %}{% endfor %}",
        "{% for x in %}{% endfor %}",
        "{% for (x in y %}{% endfor %}",
        "{% for x in y %}{% endif %}",
        "{% if x %}{% endfor %}",
        "{% else %}",
        "{% elif x %}",
        "{% if x %}{% else %}{% else %}{% endif %}",
        "{% if x %}{% else %}{% elif y %}{% endif %}",
        "{% for x in y %}{% elif z %}{% endfor %}",
        "{% break %}",
        "{% if x %}{% continue %}{% endif %}",
        "{% macro %}{% endmacro %}",
        "{% macro m %}{% endmacro %}",
        "{% macro m(1) %}{% endmacro %}",
        "{% macro m(a b) %}{% endmacro %}",
        "{% call x %}{% endcall %}",
        "{% filter %}{% endfilter %}",
        "{% with a %}{% endwith %}",
        "{% with a = 1 b = 2 %}{% endwith %}",
        "{% for a, in b %}{% endfor %}",
        "{% set a ** b %}{% endset %}",
        "{% set a | trim + 1 %}{% endset %}",
        "{% filter trim is string %}{% endfilter %}",
        "{% set x %}",
        "{% endset %}",
        "{% endcall %}",
        "{% endfilter %}",
        "{% endmacro %}",
        "{% endwith %}",
        "{% endgeneration %}",
        "{% if x: %}{% endif %}",
        "{{ x +}}",
        "{{ {'a': 1 }}",
        "{% if x %}{{ y }}{% endif",
        "{{ not }}",
        "{{ x not y }}",
        "{{ 'a' 'b }}",
        "{{ x not y z }}",
        "{{ x is string not y }}",
        "{{ {'a': 1: 'b': 2} }}",
        "{{ 1if x else 2 }}",
        "{{ 1e }}",
        "{{ 1e+ }}",
        "{{ 0b2 }}",
        "{{ 0o8 }}",
        "{{ \"\\N\" }}",
        "{% if x if y else z %}{% endif %}",
        "{% if x else y %}{% endif %}",
        "{% for a in b if c else d %}{% endfor %}",
        "{% for (a in b) %}{% endfor %}",
    ] {
        assert_eq!(
            ids(template).first().copied(),
            Some("template.syntax"),
            "{template}: {:?}",
            defects(template.as_bytes())
        );
    }
    refused(&[
        ("{{ ｃｌａｓｓ }}", "template.identifier"),
        ("{{ x.__ｃlass__ }}", "template.identifier"),
        ("{{ x.aｃ }}", "template.identifier"),
        ("{{ x\u{a0}}}", "template.identifier"),
        ("{{ \u{a0}x }}", "template.identifier"),
        ("{{ “x” }}", "template.identifier"),
        ("{{ ２ }}", "template.identifier"),
        ("{% ｓet x = 1 %}", "template.identifier"),
    ]);
    passes(&[
        "{{ 'ｃｌａｓｓ' }} ｃｌａｓｓ",
        "",
        "text",
        "}} %} #}",
        "{",
        "{ { x } }",
        "{{ x.0.1 }}{{ 0b101 + 0o17 + 1e+33 }}",
    ]);
}

#[test]
fn text_that_engines_would_cut_is_refused() {
    let path = "chat_template.jinja".parse().expect("a path");
    let of = |bytes: &[u8]| {
        let mut found = Findings::new();
        check(&path, "", bytes, &mut found);
        found.list().iter().map(|f| (f.rule, f.severity, f.place.offset.unwrap_or(0) as usize)).collect::<Vec<_>>()
    };
    assert_eq!(of(b"ab\xff{{ x }}"), [("template.utf8", Severity::Critical, 2)]);
    assert_eq!(of(b"abc\0{{ messages }}"), [("template.nul", Severity::High, 3)]);
    // Other engines see what follows, and what stands before.
    for (template, rules) in [
        ("abc\0{{ x.__class__ }}", &["template.nul", "template.attribute"][..]),
        ("{{ x.__class__ }}\0", &["template.attribute", "template.nul"]),
        ("abc\0{{ x", &["template.nul", "template.syntax"]),
    ] {
        assert_eq!(ids(template), rules, "{template:?}");
    }
    assert_eq!(of(&vec![b' '; MAX_BYTES]), []);
    assert_eq!(of(&vec![b' '; MAX_BYTES + 1]), [("template.size", Severity::High, MAX_BYTES)]);
}

#[test]
fn depth_and_length_are_bounded() {
    let nested = |n: usize| format!("{{{{ {}1{} }}}}", "[".repeat(n), "]".repeat(n));
    passes(&[&nested(MAX_NESTING - 1)]);
    refused(&[(&nested(MAX_NESTING), "template.limit"), (&nested(100_000), "template.limit")]);
    let blocks = |n: usize| format!("{}{}", "{% if x %}".repeat(n), "{% endif %}".repeat(n));
    passes(&[&blocks(MAX_NESTING)]);
    refused(&[(&blocks(MAX_NESTING + 1), "template.limit")]);
    let chain = |n: usize| format!("{{{{ x{} }}}}", " + 1".repeat(n));
    passes(&[&chain(MAX_DEPTH - 1)]);
    refused(&[(&chain(MAX_DEPTH), "template.limit")]);
    let signs = |n: usize| format!("{{{{ {}x }}}}", "-".repeat(n) + " ");
    passes(&[&format!("{{{{ {}x }}}}", "- ".repeat(MAX_DEPTH - 1))]);
    refused(&[(&signs(MAX_DEPTH + 2), "template.limit")]);
    refused(&[(&format!("{{{{ {}x }}}}", "not ".repeat(MAX_DEPTH + 1)), "template.limit")]);
    let texts = |n: usize| "a{{x}}".repeat(n / 4);
    passes(&[&texts(MAX_TOKENS)]);
    refused(&[(&texts(MAX_TOKENS + 4), "template.limit")]);
    let tokens = |n: usize| "{{x}}".repeat(n / 3);
    passes(&[&tokens(MAX_TOKENS)]);
    refused(&[(&tokens(MAX_TOKENS + 3), "template.limit")]);
}

#[test]
fn a_finding_says_where_and_what() {
    let path = "m.gguf".parse().expect("a path");
    let mut findings = Findings::new();
    check(&path, "tokenizer.chat_template", b"ab{{ x.__class__ }}", &mut findings);
    let finding = findings.list().first().expect("one");
    assert_eq!((finding.rule, finding.severity), ("template.attribute", Severity::High));
    assert_eq!(finding.place, Place::part_at("tokenizer.chat_template", 6));
    assert_eq!(finding.message, "the template reaches the attribute \"__class__\": rendering it could run code");
}

#[test]
fn the_lists_are_sorted_and_the_rules_have_names_of_their_own() {
    for name in ["ag_await", "mro", "tb_next", "format_map", "get_template", "self", "_", "__class__"] {
        assert!(!rules::field(name), "{name}");
    }
    for name in ["role", "content", "items", "format", "type", "a_", "Class"] {
        assert!(rules::field(name), "{name}");
    }
    let mut names: Vec<_> = RULES.iter().map(|rule| rule.id).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), RULES.len());
    assert!(RULES.iter().all(|rule| rule.id.starts_with("template.")));
}

/// Takes templates apart at random and puts them together again: nothing may panic, nothing may take long.
#[test]
fn random_mutations_are_harmless() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n.max(1) as u64) as usize
    };
    let pieces = [
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "'",
        "\"",
        "\\",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "|",
        ".",
        ",",
        ":",
        "__class__",
        " if ",
        " else ",
        " is ",
        " not ",
        " in ",
        "for",
        "endfor",
        "set",
        "endset",
        "macro m(a)",
        "endmacro",
        "**",
        "-",
        "~",
        "\0",
        "é",
        "99999999999",
    ];
    for _ in 0..3_000 {
        let mut text = FIXTURES[random(FIXTURES.len())].1.as_bytes().to_vec();
        for _ in 0..=random(6) {
            let at = random(text.len());
            match random(4) {
                0 => text[at] = random(256) as u8,
                1 => drop(text.drain(at..(at + random(30)).min(text.len()))),
                _ => drop(text.splice(at..at, pieces[random(pieces.len())].bytes())),
            }
            if text.is_empty() {
                text.push(b'x');
            }
        }
        assert!(defects(&text).len() <= 64);
    }
}

#[test]
fn hostile_templates_take_little_time() {
    let many = 1 << 13;
    let chained: String = (0..many / 2).rev().map(|i| format!("{{% set v{} = v{i} %}}", i + 1)).collect();
    let grown = format!(
        "{{% for i in x %}}{}{{% endfor %}}",
        "{% set a = a ~ 'b' ~ b %}{% set b = b + a + 'c' %}".repeat(many / 4)
    );
    let texts = format!("{{{{ [{}] }}}}", (0..many).map(|i| format!("'t{i}',")).collect::<String>());
    let same = "{% set a = 'x' %}{% set b = [a, b, c] %}{% set c = {a: b} %}".repeat(many / 8);
    let found = "{{ x.__class__ }}".repeat(many);
    let captures = format!(
        "{}{}{}",
        "{% set a %}".repeat(MAX_NESTING),
        "{{ a ~ a }}".repeat(many),
        "{% endset %}".repeat(MAX_NESTING)
    );
    let names: String = (0..many).map(|i| format!("n{i}, ")).collect();
    let unpacked =
        format!("{{% for i in x %}}{{% set {names}z = {names}z %}}{{{{ l.append({names}z) }}}}{{% endfor %}}");
    let calls = format!("{{% macro m(a) %}}{}{{% endmacro %}}", "{{ m(a) }}".repeat(many));
    for template in [
        chained,
        grown,
        texts,
        same,
        found,
        captures,
        calls,
        unpacked,
        "{".repeat(MAX_BYTES),
        "{{".repeat(many),
        "{% raw %}".repeat(many),
    ] {
        no_hang(template.get(..60).unwrap_or(""), || drop(defects(template.as_bytes())));
    }
}

/// Each of these got to `__class__` in Jinja2 3.1.6, and passed here.
#[test]
fn names_put_together_in_roundabout_ways_are_refused() {
    let letters = "{% set e = messages[0].role[:0] %}{% set n = '_'[0] %}";
    refused(&[
        (&format!("{letters}{{{{ messages[n.replace(e, 's'[0], 1).replace(e, n, 1)] }}}}"), "template.index"),
        (&format!("{letters}{{{{ messages[n | replace(e, 's'[0])] }}}}"), "template.index"),
        (&format!("{letters}{{{{ messages[n | wordwrap(1, wrapstring=['s'[0]] | first)] }}}}"), "template.index"),
        ("{% set u = '_'[0] * 2 %}{{ messages[u + 'class' + u] }}", "template.index"),
        ("{% set u = 2 * '_'[0] %}{{ messages[u + 'class' + u] }}", "template.index"),
        ("{{ messages | map(attribute='_'[0] * 2 + 'class' + '_'[0] * 2) }}", "template.index"),
        ("{{ messages['\\\r__class__'] }}", "template.attribute"),
        ("{{ messages['\\\r\n__class__'] }}", "template.attribute"),
        ("{{ messages['\\\n__class__'] }}", "template.attribute"),
        (
            "{% macro m(x) %}{{ messages[x] }}{% endmacro %}{{ m('__class__') }}{% macro m(y) %}{% endmacro %}",
            "template.attribute",
        ),
        (
            "{% macro m(y) %}{% endmacro %}{% macro m(x) %}{{ messages[x] }}{% endmacro %}{{ m('__class__') }}",
            "template.attribute",
        ),
        (
            "{% macro m(x) %}{{ messages[x] }}{% endmacro %}{% set ns = namespace(get=m) %}{{ ns.get('__class__') }}",
            "template.index",
        ),
        ("{% macro m(x) %}{{ messages[x] }}{% endmacro %}{{ {'strip': m}.strip('__class__') }}", "template.index"),
        (
            "{% for x in messages recursive %}{{ messages[x] }}{{ {'strip': loop}.strip(['__class__']) }}{% endfor %}",
            "template.index",
        ),
    ]);
    passes(&[
        "{{ messages[0].content | replace('a', 'b') | trim }}{{ '-' * 3 }}{{ messages[2 * loop_count | length - 1] }}",
        "{% set outer = loop %}{% for m in messages %}{{ messages[loop.index0] }}{% set o = loop %}{{ o.index }}{% endfor %}",
        "{% macro m(x) %}{{ x }}{% endmacro %}{% set f = m %}{{ m(1) }}{{ 'a\\\r\nb' }}{{ '%(a)3d %-5s %.2f 5%' % tools }}",
        "{% for k in tools recursive %}{{ loop.index }}{{ tools[k] }}{{ loop(tools[k]) }}{% endfor %}",
    ]);
}

/// Python's regular expressions take more for a space than others.
#[test]
fn raw_blocks_end_where_all_engines_say() {
    for space in ["\u{b}", "\u{c}", "\u{1c}", "\u{1f}", "\u{85}", "\u{a0}", "\u{2028}", "\u{3000}"] {
        for raw in [
            format!("{{% raw %}}{{%{space}endraw %}}{{{{ x.__class__ }}}}{{# {{% endraw %}} #}}"),
            format!("{{% raw %}}{{% endraw{space}%}}{{{{ x.__class__ }}}}{{# {{% endraw %}} #}}"),
            format!("{{%{space}raw %}}{{{{ x.__class__ }}}}{{% endraw %}}"),
            format!("{{% raw{space}%}}{{{{ x.__class__ }}}}{{% endraw %}}"),
        ] {
            refused(&[(&raw, "template.syntax")]);
        }
    }
    passes(&[
        "{%- \t\r\nraw -%}{{ x.__class__ }}{%+ \t\r\nendraw +%}",
        "{% raw %}{%\u{b}endra %}{% raw\u{b}%}{% endraw %}",
    ]);
}

#[test]
fn widths_from_arguments_and_behind_keys_are_seen() {
    refused(&[
        ("{{ '%*d' % (999999999, 1) }}", "template.exhaustion"),
        ("{{ '%-*d' % (999999999, 1) }}", "template.exhaustion"),
        ("{{ '%.*f' % (999999999, 1) }}", "template.exhaustion"),
        ("{{ '%(a)999999999d' % {'a': 1} }}", "template.exhaustion"),
    ]);
    passes(&["{{ '%(a)9d' % {'a': 1} }}{{ '100%, 2 * 3, %d*' % 3 }}"]);
}

#[test]
fn lists_that_grow_by_themselves_are_refused() {
    let l = "{% set l = ['a'] %}{% set ns = namespace(l=['a']) %}";
    for looped in [
        "{% for i in range(40) %}{% set _ = l.extend(l) %}{% endfor %}",
        "{% for i in messages %}{{ l.append(l | string) }}{% endfor %}",
        "{% for i in messages %}{{ l.insert(0, [1, l]) }}{% endfor %}",
        "{% for i in messages %}{{ ns.l.extend(ns.l) }}{% endfor %}",
        "{% for i in messages %}{{ ns.l.update(a=ns.l) }}{% endfor %}",
        "{% for x in l %}{% set _ = l.append(1) %}{% endfor %}",
        "{% for i in range(40) %}{% set ns.a = ns.b ~ ns.b %}{% set ns.b = ns.a %}{% endfor %}",
        "{% for i in messages %}{% set ns.a = ns.a ~ ns.b %}{% set ns.b = ns.a %}{% endfor %}",
        "{% for i in messages %}{% set x = ns.a ~ 'x' %}{% set y = x ~ x %}{% set ns.a = y %}{% endfor %}",
        "{% for x in ns.l %}{% for y in tools %}{% set _ = ns.l.append(y) %}{% endfor %}{% endfor %}",
        "{% for x in messages %}{% set _ = messages.append(x) %}{% endfor %}",
        "{% for i in x %}{% set ns.a = (ns.a or '') ~ (ns.a or '') %}{% endfor %}",
        "{% for i in x %}{% set ns.a = (ns.a if y else '') ~ (ns.a if y else '') %}{% endfor %}",
        "{% for i in x %}{% set ns.a = {'a': ns.a, 'b': ns.a} %}{% endfor %}",
        "{% for i in x %}{% set ns.a = ns.a[:] ~ ns.a[:] %}{% endfor %}",
        "{% for i in x %}{% set ns.a = ns.a.strip() ~ ns.a.strip() %}{% endfor %}",
        // These passed.
        "{% for i in x %}{% set ns.a = ns ~ ns %}{% endfor %}",
        "{% for i in x %}{% set ns.a = ns['a'] ~ ns['a'] %}{% endfor %}",
        "{% for i in x %}{% for k in ['a'] %}{% set ns.a = ns[k] ~ ns[k] %}{% endfor %}{% endfor %}",
        "{% for i in x %}{% set ns.l = [ns.l[0] ~ ns.l[0]] %}{% endfor %}",
        "{% for i in x %}{% set ns.l = [ns.l.0 ~ ns.l.0] %}{% endfor %}",
        "{% for i in x %}{% set ns.l = {'a': ns.l.a ~ ns.l.a} %}{% endfor %}",
        "{% for i in x %}{% set ns.l = [ns.l.pop() * 2] %}{% endfor %}",
        "{% for i in x %}{% set ns.a = ns['b'] ~ ns.b %}{% set ns.b = ns.a %}{% endfor %}",
        "{% for i in x %}{% set y = ns.l[0] ~ ns.l[0] %}{% set ns.l = [y] %}{% endfor %}",
        "{% for i in x %}{% set y, z = ns.a ~ ns.a, 1 %}{% set ns.a = z %}{% endfor %}",
        "{% for i in x %}{% set ns.a = c1 ~ c2 ~ c3 ~ c4 ~ c5 ~ c6 ~ c7 ~ c8 ~ ns.b ~ ns.b %}{% set ns.b = ns.a %}{% endfor %}",
        "{% for i in x %}{% set _ = l.insert(0, l[0] ~ l[0]) %}{% endfor %}",
        "{% for i in x %}{% for k in ['l'] %}{% set _ = ns.l.extend(ns[k]) %}{% endfor %}{% endfor %}",
        "{% for i in x %}{% set a %}{{ a }}{{ a }}{% endset %}{% endfor %}",
        "{% for i in x %}{% set a = a ~ a %}{% endfor %}",
        "{% for i in x %}{% set ns.a %}{{ ns.b }}{{ ns.b }}{% endset %}{% set ns.b = ns.a %}{% endfor %}",
        "{% for i in x %}{% set ns.a %}{% for j in [1, 2] %}{{ ns.a }}{% endfor %}{% endset %}{% endfor %}",
        "{% macro f(n) %}{% set n.a %}{{ n.a }}{{ n.a }}{% endset %}{% endmacro %}{% for i in x %}{{ f(ns) }}{% endfor %}",
        "{% for i in x %}{% set _ = [l.append(1), l.append(1), l.append(1), l.append(1), l.append(1), l.append(1), l.append(1), l.append(1), l.append(1), l.append(1), l.append(1), l.append(1), l.append(1), l.append(1), l.append(1), l.append(1), l.extend(l)] %}{% endfor %}",
        "{% macro f(n) %}{% set n.a = n.a ~ n.a %}{% endmacro %}{% for i in x %}{{ f(ns) }}{% endfor %}",
        "{% macro f(n) %}{% set y = n.a ~ n.a %}{% set n.a = y %}{% endmacro %}{% for i in x %}{{ f(ns) }}{% endfor %}",
        "{% macro f() %}{% set _ = l.extend(l) %}{% endmacro %}{% for i in x %}{{ f() }}{% endfor %}",
        "{% macro f(s) %}{{ s }}{% endmacro %}{% for i in x %}{% set ns.a = f(ns.a) ~ f(ns.a) %}{% endfor %}",
        "{% set ns.a = 'a' %}{% set ns.a = ns ~ ns %}{% set ns.b = ns ~ ns %}{% set ns.a = 'b' * 300000 %}{{ ns ~ ns ~ ns ~ ns }}",
    ] {
        refused(&[(&format!("{l}{looped}"), "template.exhaustion")]);
    }
    let many = format!("{l}{{% for i in x %}}{{{{ [{}] }}}}{{% endfor %}}", "l.append(1),".repeat(17));
    refused(&[(&many, "template.exhaustion")]);
    passes(&[
        &format!(
            "{l}{{% for m in messages %}}{{% set _ = l.append(m) %}}{{% set _ = ns.l.append(l[0]) %}}{{{{ l.append(l | length) }}}}{{% endfor %}}"
        ),
        "{% for m in messages %}{% set ns.a = ns.b ~ m.x %}{% set ns.b = ns.a %}{% set ns.c = ns.c ~ ns.a ~ ns.b %}{% endfor %}",
        "{% for m in messages %}{% set x = m.content %}{% set y = x ~ x %}{% set x = y %}{% endfor %}",
        "{% for m in messages %}{% set ns.a %}{{ ns.a }}b{% endset %}{% set ns.b %}b{% endset %}{% endfor %}",
        "{% set ns.a %}{{ ns.a }}{{ ns.a }}{% endset %}{% set ns.a = ns.a ~ ns.a %}",
        "{% for m in messages %}{% endfor %}{% set ns.a = ns.a ~ ns.a %}",
        "{% for m in messages %}{% set ns.a = 2 * 3 %}{% set ns.b = ns.l[0] %}{% set ns.c = ns.c + m.x[0] ~ m.x[1] %}{% endfor %}",
        "{% for m in messages %}{% set x = x.split('a')[0] ~ x.split('a')[1] %}{% set ns.a = ns.a + 1 if m.a else ns.a %}{% endfor %}",
        "{% macro f(x) %}{% set x = x ~ x %}{{ x }}{% endmacro %}{{ f(messages) }}",
        "{% for i in x %}{% set ns.a = c1 ~ c2 ~ c3 ~ c4 ~ c5 ~ c6 ~ c7 ~ c8 ~ ns.a %}{% set ns.b = ns.b ~ ns['a'] %}{% endfor %}",
        &format!("{l}{{% for i in x %}}{{{{ l.append(l[-1]) }}}}{{% endfor %}}"),
        "{% for m in messages %}{% set ns.a %}{{ ns.a }}{% for t in tools %}{{ t.x }}{{ m.x }}{% endfor %}{% endset %}{% endfor %}",
        &format!("{l}{{% for i in x %}}{{{{ [{}] }}}}{{% endfor %}}", "l.append(1),".repeat(16)),
        &format!("{l}{{{{ [{}] }}}}", "l.append(1),".repeat(17)),
        "{% for m in messages %}{% set ns.n = ns.n + ns.k %}{% set ns.k = (ns.n | length) + ns.k %}{% endfor %}",
        &format!(
            "{l}{{{{ l.extend(l) }}}}{{% for x in l %}}{{{{ ns.l.append(x) }}}}{{% endfor %}}{{{{ l.append(1) }}}}"
        ),
    ]);
}

#[test]
fn what_jinja_does_not_parse_is_refused() {
    refused(&[("{{ x[1,] }}", "template.syntax"), ("{{ x | trim().y }}", "template.syntax")]);
}

#[test]
fn many_defects_of_one_rule_hide_no_other() {
    let odd = "{{ x is nobody_knows }}".repeat(100);
    let endless = format!("{{% macro m(a) %}}{}{{% endmacro %}}", "{{ m('a') }}".repeat(100));
    for (many, rule) in [(odd, "template.test"), (endless, "template.exhaustion")] {
        let found = ids(&format!("{many}{{{{ x.__class__ }}}}"));
        assert_eq!(found.iter().filter(|id| **id == rule).count(), 64, "{rule}");
        assert!(found.contains(&"template.attribute"), "{rule}");
    }
}

/// The rounds of one loop are no part of the next.
#[test]
fn loops_after_each_other_are_not_within_each_other() {
    passes(&[&"{% for m in messages %}{{ m.content }}{% endfor %}".repeat(40)]);
}

/// Each of these got to `type` or to its text in Jinja2 3.1.6, and passed here.
#[test]
fn texts_of_lists_and_of_namespaces_are_the_templates_own() {
    let n = "{% set n = namespace() %}{% set n.a = '__class__' %}";
    let l = "{% set l = [] %}{% set _ = l.append('__class__') %}";
    let e = "{% set e = [] %}";
    refused(&[
        ("{{ x[(['__class__'] | trim)[2:11]] }}", "template.index"),
        ("{{ x[(['__class__'] | lower)[2:11]] }}", "template.index"),
        ("{{ x[(['__class__'] | safe)[2:11]] }}", "template.index"),
        ("{{ x[((dict(__class__=1).keys() - []) | lower)[2:11]] }}", "template.index"),
        (&format!("{l}{{{{ x[(l | string)[2:11]] }}}}"), "template.index"),
        (&format!("{n}{{{{ x[(n | string)[18:27]] }}}}"), "template.index"),
        (&format!("{n}{{{{ x[(n | lower)[18:27]] }}}}"), "template.index"),
        (&format!("{n}{{{{ x[([n] | lower)[19:28]] }}}}"), "template.index"),
        (&format!("{n}{{{{ x[(messages[0].role | replace(1, n))[18:27]] }}}}"), "template.index"),
        (&format!("{n}{{{{ x[(messages[0].role % n)[18:27]] }}}}"), "template.index"),
        ("{{ x[(messages[0].role % ['__class__'])[2:11]] }}", "template.index"),
        (&format!("{n}{{{{ x[(messages[0].role.replace('user', n | safe))[18:27]] }}}}"), "template.index"),
        (&format!("{n}{{{{ x[([n] | groupby('a') | first)[0]] }}}}"), "template.attribute"),
        (&format!("{n}{{{{ x[([n] | sum(attribute='a', start=y))] }}}}"), "template.attribute"),
        (
            "{% set d = {} %}{% set _ = d.update({'a': '__class__'}) %}{% set n = namespace(d) %}{{ x[n.a] }}",
            "template.attribute",
        ),
        (
            &format!("{l}{{% for k in tools recursive %}}{{{{ x[k] }}}}{{{{ loop(l if y else k) }}}}{{% endfor %}}"),
            "template.attribute",
        ),
        ("{% set _ = messages.append('__class__') %}{{ x[(messages * 2)[-1]] }}", "template.attribute"),
        ("{% set _ = messages.append('__class__') %}{{ x[(messages + messages)[-1]] }}", "template.attribute"),
        ("{% set _ = messages.append('__class__') %}{{ x[(messages | string)[-11:-2]] }}", "template.index"),
        (
            "{% set _ = messages.append('ab__class__') %}{{ x[(messages | map('trim', 'ab') | list)[-1]] }}",
            "template.index",
        ),
        ("{{ {'strip': '{0.__class__}'.format}.strip(messages) }}", "template.format"),
        ("{{ {'strip': '{0.__class__}'['format']}.strip(messages) }}", "template.format"),
        ("{{ {'strip': (['{0.__class__}'] | map(attribute='format') | list)[0]}.strip(messages) }}", "template.format"),
        ("{{ {'strip': messages[0].role.format}.strip(messages) }}", "template.call"),
        ("{{ {'count': 1}.isdigit() }}", "template.call"),
        ("{{ x[{'count': '__class__'.strip}.count()] }}", "template.index"),
        ("{{ x[{'cycle': '__class__'['strip']}.cycle()] }}", "template.index"),
        ("{{ x[{'append': ['__class__'].pop}.append()] }}", "template.attribute"),
        ("{% set _ = messages[0].update(count='__class__'.strip) %}{{ x[messages[0].count()] }}", "template.index"),
        (&format!("{e}{{{{ {{'count': e.append}}.count('__class__') }}}}{{{{ x[e[0]] }}}}"), "template.call"),
        (&format!("{e}{{{{ {{'count': e['append']}}.count('__class__') }}}}{{{{ x[e[0]] }}}}"), "template.call"),
        (
            &format!(
                "{e}{{{{ {{'count': [e] | map(attribute='append') | first}}.count('__class__') }}}}{{{{ x[e[0]] }}}}"
            ),
            "template.call",
        ),
        (
            "{% set n = namespace() %}{% set n.items = {'a': '__class__'}.items %}{{ x[(n | dictsort | first)[1]] }}",
            "template.index",
        ),
        ("{% set n = namespace(strip=messages[0].role.format) %}{{ n.strip(messages) }}", "template.call"),
    ]);
    passes(&[
        "{% set l = [1] %}{{ l.index(1) }}{{ l.count(1) }}{{ l.pop() }}{{ l.copy() }}{{ {'a': 1}.items() }}{{ {}.get('a') }}",
        "{% for t in [{'a': 'b'}] %}{{ x[t.a] }}{% endfor %}{{ x[words.count('a')] }}",
        "{% for m in messages %}{{ loop.changed(m.role) }}{{ loop.cycle('a', 'b') }}{{ ['a', m.x][0].strip() }}{% endfor %}",
        "{% set t = [] if y else messages[0].content %}{{ t.strip() }}{{ x[t | trim] }}{{ x[[1, messages[0].a] | string] }}{{ messages[0].count }}{{ messages[0].items }}{{ x[messages[0].a | safe] }}",
    ]);
}

/// What was put into a list by whatever way it came about.
#[test]
fn what_is_put_into_any_list_comes_out_of_it() {
    let half = "{% set a = [] if y else 2 %}{% set b = 2 if y else [] %}";
    for list in [
        "messages[0].role.split()",
        "messages | list",
        "[1] * 2",
        "[1] + [2]",
        "messages + [1]",
        "[1] + messages",
        "messages + messages",
        "messages * 2",
        "2 * messages",
        "a * b",
        "{}.copy()",
    ] {
        let put = format!("{half}{{% set l = {list} %}}{{{{ l.append('__class__') }}}}{{{{ x[l[0]] }}}}");
        refused(&[(&put, "template.attribute")]);
    }
}

/// A name that gets to where it is looked up by as many steps as there are walks, and by more.
#[test]
fn names_that_take_many_walks_are_found() {
    let chain = |n: usize| {
        let sets: String = (0..n).rev().map(|i| format!("{{% set n.a{} = n.a{i} %}}", i + 1)).collect();
        format!("{{% set n = namespace() %}}{{% for i in tools %}}@{sets}{{% set n.a0 = '__class__' %}}{{% endfor %}}")
    };
    let read = |n: usize| chain(n).replace('@', &format!("{{{{ x[n.a{n}] }}}}"));
    refused(&[(&read(4), "template.attribute"), (&read(7), "template.attribute"), (&read(20), "template.index")]);
    let put = chain(20).replace('@', "{{ x[messages[-1]] }}{{ messages.append(n.a20) }}");
    refused(&[(&put, "template.index")]);

    let macros: String =
        (0..6).map(|i| format!("{{% macro m{}(a{0}) %}}{{{{ m{i}(a{0}) }}}}{{% endmacro %}}", i + 1)).collect();
    let passed = format!("{{% macro m0(a) %}}{{{{ x[a] }}}}{{% endmacro %}}{macros}{{{{ m6('__class__') }}}}");
    for changing_nothing in [
        "",
        "{% set z %}{% endset %}",
        "{{ [].append(1) }}",
        "{{ messages.append(1) }}",
        "{% for i in messages recursive %}{{ loop(i.x) }}{% endfor %}",
        "{% for i in messages recursive %}{% set z = loop %}{% endfor %}",
        "{% set n = namespace(z=1) %}",
    ] {
        refused(&[(&format!("{passed}{changing_nothing}"), "template.attribute")]);
    }
}

/// A constant that is too long, or one of too many, could be any.
#[test]
fn constants_are_told_apart_up_to_a_limit() {
    let long = |n: usize| format!("{{{{ x['{}'] }}}}", "a".repeat(n));
    passes(&[&long(256)]);
    refused(&[(&long(257), "template.index")]);
    let key = format!("{{{{ x[(dict({}__class__=1) | first)[250:]] }}}}", "a".repeat(250));
    refused(&[(&key, "template.index")]);
    let names = |n: usize| (0..n).map(|i| format!("'k{i}',")).collect::<String>();
    let many = |n: usize, last: &str| format!("{{% for k in [{}{last}] %}}{{{{ x[k] }}}}{{% endfor %}}", names(n));
    passes(&[&many(64, "")]);
    refused(&[(&many(64, "'__class__'"), "template.index")]);
    let folded = |n: usize| {
        format!(
            "{{% for a in [{}] %}}{{% for b in [{}] %}}{{{{ x[a ~ b] }}}}{{% endfor %}}{{% endfor %}}",
            names(n),
            names(8)
        )
    };
    passes(&[&folded(8)]);
    refused(&[(&folded(9), "template.index")]);
}

#[test]
fn the_methods_and_filters_of_known_templates_pass() {
    for method in [
        "strip",
        "split",
        "startswith",
        "endswith",
        "isdigit",
        "isalpha",
        "isalnum",
        "isnumeric",
        "isdecimal",
        "isspace",
        "isupper",
        "islower",
        "find",
        "rfind",
        "index",
        "count",
        "replace",
        "join",
        "get",
        "pop",
        "items",
        "keys",
        "values",
        "copy",
        "append",
    ] {
        passes(&[&format!("{{{{ messages[0].content.{method}('a') }}}}")]);
    }
    passes(&[
        "{{ messages | map('trim') | list }}{{ messages | join(', ') | from_json }}{{ x | fromjson }}{{ x | map(attribute=2 * 1) }}",
    ]);
}

#[test]
fn a_finding_says_why_and_where_in_the_template() {
    for (template, at, why) in [
        ("{% include 'x' %}", 0, "it would load and run another file"),
        ("{% debug %}", 0, "it would print the engine's internals"),
        ("{% block a %}", 0, "another template could replace it"),
        ("{% do x %}", 0, "no known template uses it"),
        ("{{ x | attr('a') }}", 11, "it reads any attribute"),
        ("{{ x | format(1) }}", 13, "it formats texts"),
        ("{{ x | pprint }}", 14, "no known template uses it"),
        ("{{ 'ab\\xg0' }}", 6, "a broken escape"),
    ] {
        let found = defects(template.as_bytes());
        let first = found.first().expect("one");
        assert!(first.at == at && first.message.contains(why), "{template}: {first:?}");
    }
}
