//! The rules of templates, and what known templates use.
//!
//! Owns: the rules, and the lists of names that are allowed or refused. Promises: what is on no list is refused. Leaves
//! out: where a name stands.

use crate::format::finding::rules;

rules! {
    UTF8 "template.utf8" Critical "a chat template is not UTF-8: engines would fail or read different templates"
    NUL "template.nul" High "a chat template has a NUL byte: some engines would end it there and check less than runs"
    SIZE "template.size" High "a chat template is far larger than any known one"
    LIMIT "template.limit" High "a chat template is so long or deep that parsing it could crash an engine"
    SYNTAX "template.syntax" High "a chat template is no valid Jinja: engines fail on it or read it differently"
    IDENTIFIER "template.identifier" High "a name in a chat template is not ASCII: Python normalises it, so a forbidden name could hide"
    NAME "template.name" High "a chat template uses an object that leads to the engine's internals"
    ATTRIBUTE "template.attribute" High "a chat template reaches an internal attribute: rendering it could run code"
    INDEX "template.index" High "a chat template looks up a name that it puts together itself"
    CALL "template.call" High "a chat template calls what no known template calls: rendering it could run code"
    FORMAT "template.format" High "a chat template formats a text which could reach attributes (a sandbox escape)"
    FILTER "template.filter" High "a chat template uses a filter that reaches attributes or is not known"
    TEST "template.test" High "a chat template uses a test that is not known"
    STATEMENT "template.statement" High "a chat template has a statement that loads files or is not known"
    EXHAUSTION "template.exhaustion" High "a chat template makes an engine work or allocate without bound"
}

/// Attributes that lead from a value to the interpreter, besides all that begin with `_`.
const INTERNAL: &[&str] = &[
    "ag_await",
    "ag_code",
    "ag_frame",
    "base",
    "bases",
    "builtins",
    "class",
    "co_code",
    "co_consts",
    "co_names",
    "cr_await",
    "cr_code",
    "cr_frame",
    "cr_origin",
    "environment",
    "f_back",
    "f_builtins",
    "f_code",
    "f_globals",
    "f_locals",
    "format_map",
    "func_closure",
    "func_code",
    "func_defaults",
    "func_dict",
    "func_globals",
    "get_template",
    "getattr",
    "gi_code",
    "gi_frame",
    "gi_yieldfrom",
    "globals",
    "im_class",
    "im_func",
    "im_self",
    "import",
    "init",
    "loader",
    "locals",
    "mro",
    "os",
    "popen",
    "self",
    "setattr",
    "subclasses",
    "subprocess",
    "sys",
    "tb_frame",
    "tb_next",
];

/// Whether a field may be read by this name.
pub(super) fn field(name: &str) -> bool {
    !name.starts_with('_') && INTERNAL.binary_search(&name).is_err()
}

/// Objects that Jinja2 or a web framework puts into a template and through which payloads reach Python.
pub(super) fn internal_object(name: &str) -> bool {
    let known = ["config", "cycler", "get_flashed_messages", "joiner", "lipsum", "request", "self", "super", "url_for"];
    name.starts_with("__") || known.contains(&name)
}

/// Functions that engines give to templates.
pub(super) const FUNCTIONS: [&str; 5] = ["dict", "namespace", "raise_exception", "range", "strftime_now"];

/// What a call gives, as far as texts go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gives {
    /// A number, a boolean, nothing.
    Number,
    /// A text out of the value's, with none of the template's own in it.
    Part,
    /// A list of such texts.
    Parts,
    /// A text with the arguments worked in.
    Mixed,
    /// A text that is made here.
    Made,
    /// The value itself, or an argument in its place.
    Same,
    /// The value itself, as a text.
    Marked,
    /// One of the elements, or an argument in its place.
    Element,
    /// A list with the elements.
    List,
    /// What is parsed out of the text.
    Parsed,
    /// Nothing; the arguments get into the value.
    Stored,
    /// One of the arguments.
    Argument,
}

/// What a method of this name gives; none when it may not be called.
pub(super) fn method(name: &str) -> Option<Gives> {
    Some(match name {
        "strip" | "lstrip" | "rstrip" | "upper" | "lower" | "title" | "capitalize" | "casefold" | "swapcase"
        | "removeprefix" | "removesuffix" => Gives::Part,
        "split" | "rsplit" | "splitlines" | "partition" | "rpartition" => Gives::Parts,
        "startswith" | "endswith" | "isdigit" | "isalpha" | "isalnum" | "isnumeric" | "isdecimal" | "isspace"
        | "isupper" | "islower" | "find" | "rfind" | "index" | "count" | "changed" => Gives::Number,
        "replace" => Gives::Mixed,
        "join" | "strftime" | "isoformat" | "format" => Gives::Made,
        "get" | "pop" => Gives::Element,
        "items" | "keys" | "values" => Gives::List,
        "copy" => Gives::Same,
        "append" | "extend" | "insert" | "update" => Gives::Stored,
        "cycle" => Gives::Argument,
        _ => return None,
    })
}

/// What a filter of this name gives; none when it may not be used. `attr` reads any attribute, `format` formats, `pprint`
/// shows the inside of objects.
pub(super) fn filter(name: &str) -> Option<Gives> {
    Some(match name {
        "length" | "count" | "wordcount" | "abs" | "round" => Gives::Number,
        "lower" | "upper" | "title" | "capitalize" | "trim" | "striptags" | "strip" => Gives::Part,
        "e" | "escape" | "forceescape" | "center" | "indent" | "replace" | "string" | "truncate" | "urlencode"
        | "urlize" | "wordwrap" => Gives::Mixed,
        "join" | "tojson" | "xmlattr" | "filesizeformat" => Gives::Made,
        "default" | "d" | "int" | "float" => Gives::Same,
        "safe" => Gives::Marked,
        "first" | "last" | "random" | "min" | "max" | "sum" => Gives::Element,
        "list" | "sort" | "reverse" | "unique" | "batch" | "slice" | "select" | "reject" | "selectattr"
        | "rejectattr" | "dictsort" | "items" | "groupby" | "map" | "keys" | "values" => Gives::List,
        "from_json" | "fromjson" => Gives::Parsed,
        _ => return None,
    })
}

/// Where a filter takes the name of an attribute: the number of the positional argument.
pub(super) fn attribute_argument(filter: &str) -> Option<usize> {
    match filter {
        "selectattr" | "rejectattr" | "groupby" | "sum" => Some(0),
        "join" | "min" | "max" | "unique" => Some(1),
        "sort" => Some(2),
        // Only by keyword: the first positional argument is a filter.
        "map" => Some(usize::MAX),
        _ => None,
    }
}

/// Filters and methods whose integer arguments say how much to make.
pub(super) fn sized(name: &str) -> bool {
    matches!(name, "center" | "indent" | "batch" | "slice" | "round" | "tojson" | "wordwrap" | "truncate")
}

/// Whether a test of this name may be used.
pub(super) fn test(name: &str) -> bool {
    matches!(
        name,
        "defined"
            | "undefined"
            | "none"
            | "boolean"
            | "true"
            | "false"
            | "integer"
            | "float"
            | "number"
            | "string"
            | "mapping"
            | "sequence"
            | "iterable"
            | "callable"
            | "lower"
            | "upper"
            | "odd"
            | "even"
            | "divisibleby"
            | "sameas"
            | "escaped"
            | "in"
            | "eq"
            | "equalto"
            | "=="
            | "ne"
            | "!="
            | "gt"
            | "greaterthan"
            | ">"
            | "ge"
            | ">="
            | "lt"
            | "lessthan"
            | "<"
            | "le"
            | "<="
            | "startingwith"
            | "endingwith"
            | "containing"
    )
}

/// What a statement outside of the list could do.
pub(super) fn statement(tag: &str) -> &'static str {
    match tag {
        "include" | "import" | "from" | "extends" => "it would load and run another file",
        "debug" => "it would print the engine's internals",
        "block" | "endblock" => "another template could replace it",
        _ => "no known template uses it",
    }
}
