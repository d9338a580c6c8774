# aspects.awk: what must be tested of each function, out of the preprocessed header (gcc -E -P).
#
# Owns: the list that the tests' own marks (check_covered) are compared with, "symbol aspect[:parameter]" a line. A function,
# parameter or struct that is added to the header is on it at once.
{ text = text " " $0 }
END {
    gsub(/[ \t]+/, " ", text)
    # Structs that begin with their size.
    rest = text
    while (match(rest, /struct securereg_[a-z_]+ \{ size_t size;/)) {
        split(substr(rest, RSTART, RLENGTH), words, " ")
        sized[words[2]] = 1
        rest = substr(rest, RSTART + RLENGTH)
    }
    count = split(text, statements, ";")
    for (s = 1; s <= count; s++) {
        if (!match(statements[s], /(securereg_status |const char \*)securereg_[a-z_]+\(.*\)$/)) continue
        prototype = substr(statements[s], RSTART, RLENGTH)
        match(prototype, /securereg_[a-z_]+\(/)
        name = substr(prototype, RSTART, RLENGTH - 1)
        of_all = "success threads fork panic"
        many = split(of_all, words, " ")
        for (w = 1; w <= many; w++) print name, words[w]
        if (name ~ /_(free|close)$/) print name, "twice"
        arguments = substr(prototype, RSTART + RLENGTH)
        sub(/\)$/, "", arguments)
        if (arguments == "void") continue
        many = split(arguments, list, ",")
        for (a = 1; a <= many; a++) {
            at = a - 1
            parameter = list[a]
            sub(/^ /, "", parameter)
            if (parameter ~ /^struct securereg_[a-z_]+ [a-z_]+$/) print name, "closed"
            if (parameter !~ /\*/) continue
            if (parameter ~ /^struct securereg_error \*/) {
                print name, "error"
                print name, "align:" at
                continue
            }
            print name, "null:" at
            if (parameter ~ /^const char \*[a-z]/) { print name, "string:" at; continue }
            if (parameter !~ /^(const )?void \*[a-z]/) print name, "align:" at
            split(parameter, words, " ")
            if (words[1] == "struct" && words[2] in sized) print name, "size:" at
            if (words[1] == "const" && words[2] == "struct" && words[3] in sized) print name, "size:" at
        }
    }
}
