//! Pages of tags and repositories.
//!
//! Owns: `n` and `last` of a query, the cut, the bodies and the `Link` to the next page (distribution-spec, "Listing Tags"). Promises: `last` is not in the page
//! that follows it; `n=0` is an empty page without a link; a list is never null; what goes into a `Link` is escaped. Leaves out: sorting, and
//! what the caller may read: the lists are given sorted by bytes and filtered.

use crate::error::{Code, Failure, shorten};
use crate::name::Repository;
use serde_json::json;

/// Which page is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// How many at most; no more than can be counted.
    pub n: Option<usize>,
    /// The last one of the page before; it need not be there any more.
    pub last: Option<String>,
}

impl Page {
    /// Reads the query of a URL; other keys are left alone, and the first of several counts.
    ///
    /// # Errors
    /// `PAGINATION_NUMBER_INVALID` (400) when `n` is no number; `UNSUPPORTED` (400) when a value is not UTF-8 in percent encoding.
    pub fn parse(query: &str) -> Result<Page, Failure> {
        let mut page = Page::default();
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "n" if page.n.is_none() => page.n = Some(number(&decoded(value)?)?),
                "last" if page.last.is_none() => page.last = Some(decoded(value)?),
                _ => {}
            }
        }
        page.last = page.last.filter(|last| !last.is_empty());
        Ok(page)
    }

    /// This page of a sorted list, `max` at most; and whether there are more, for which a [`link`] is sent.
    pub fn cut<T: AsRef<str>>(&self, sorted: impl IntoIterator<Item = T>, max: usize) -> (Vec<T>, bool) {
        let n = self.n.unwrap_or(max).min(max);
        if n == 0 {
            return (Vec::new(), false);
        }
        let after = self.last.as_deref().unwrap_or_default();
        let mut rest = sorted.into_iter().skip_while(|item| !after.is_empty() && item.as_ref() <= after);
        let page: Vec<T> = rest.by_ref().take(n).collect();
        let more = rest.next().is_some();
        (page, more)
    }
}

/// A number too large is as good as the largest.
fn number(text: &str) -> Result<usize, Failure> {
    match !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        true => Ok(text.parse().unwrap_or(usize::MAX)),
        false => Err(Failure::new(
            Code::PaginationNumberInvalid,
            format!("n={:?} is no number: give how many to list, or leave n out", shorten(text)),
        )),
    }
}

/// A value of a query, as forms encode it.
fn decoded(value: &str) -> Result<String, Failure> {
    let bad = || {
        let shown = shorten(value);
        Failure::new(Code::Unsupported, format!("the query's {shown:?} is not UTF-8 in percent encoding"))
            .with_status(400)
    };
    let mut bytes = Vec::with_capacity(value.len());
    let mut from = value.bytes();
    while let Some(byte) = from.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let mut digit = || from.next().and_then(|b| char::from(b).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else { return Err(bad()) };
                bytes.push((high << 4 | low) as u8);
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// All but what RFC 3986 leaves unreserved, in percent encoding.
pub fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The body of `GET /v2/<name>/tags/list`.
pub fn tags_list<S: AsRef<str>>(name: &Repository, tags: impl IntoIterator<Item = S>) -> String {
    json!({ "name": name.as_str(), "tags": texts(tags) }).to_string()
}

/// The body of `GET /v2/_catalog`.
pub fn catalog<S: AsRef<str>>(repositories: impl IntoIterator<Item = S>) -> String {
    json!({ "repositories": texts(repositories) }).to_string()
}

fn texts<S: AsRef<str>>(list: impl IntoIterator<Item = S>) -> Vec<String> {
    list.into_iter().map(|text| text.as_ref().to_owned()).collect()
}

/// The `Link` to the page after `last`: `</v2/a/tags/list?n=2&last=b>; rel="next"`. `path` has no query, and is escaped already.
pub fn link(path: &str, last: &str, n: Option<usize>) -> String {
    let n = n.map(|n| format!("n={n}&")).unwrap_or_default();
    format!("<{path}?{n}last={}>; rel=\"next\"", encoded(last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(n: Option<usize>, last: Option<&str>) -> Page {
        Page { n, last: last.map(str::to_owned) }
    }

    #[test]
    fn a_query_is_read() {
        for (query, expected) in [
            ("", page(None, None)),
            ("n=2", page(Some(2), None)),
            ("n=0", page(Some(0), None)),
            ("n=99999999999999999999999", page(Some(usize::MAX), None)),
            ("n=2&last=a", page(Some(2), Some("a"))),
            ("last=a%2Fb&n=%32", page(Some(2), Some("a/b"))),
            ("last=a+b%c3%a9", page(None, Some("a bé"))),
            ("last=", page(None, None)),
            ("last", page(None, None)),
            ("x=%zz&&n=1&n=x&last=a&last=b", page(Some(1), Some("a"))),
        ] {
            assert_eq!(Page::parse(query), Ok(expected), "{query}");
        }
        for (bad, code) in [
            ("n=", Code::PaginationNumberInvalid),
            ("n", Code::PaginationNumberInvalid),
            ("n=-1", Code::PaginationNumberInvalid),
            ("n=+1", Code::PaginationNumberInvalid),
            ("n=1.0", Code::PaginationNumberInvalid),
            ("n=a", Code::PaginationNumberInvalid),
            ("last=%", Code::Unsupported),
            ("last=%f", Code::Unsupported),
            ("last=%+1", Code::Unsupported),
            ("last=%ff", Code::Unsupported),
        ] {
            let failure = Page::parse(bad).unwrap_err();
            assert_eq!((failure.code, failure.status), (code, 400), "{bad}");
        }
    }

    #[test]
    fn a_page_begins_after_last_and_says_whether_more_follow() {
        let tags = ["a", "b", "c"];
        for (asked, max, expected, more) in [
            (page(None, None), 100, &tags[..], false),
            (page(None, None), 2, &tags[..2], true),
            (page(Some(100), None), 2, &tags[..2], true),
            (page(Some(3), None), 100, &tags[..], false),
            (page(Some(2), None), 100, &tags[..2], true),
            (page(Some(0), None), 100, &[], false),
            (page(Some(0), Some("a")), 100, &[], false),
            (page(Some(1), Some("a")), 100, &tags[1..2], true),
            (page(Some(1), Some("aa")), 100, &tags[1..2], true),
            (page(None, Some("b")), 100, &tags[2..], false),
            (page(None, Some("c")), 100, &[], false),
            (page(None, Some("zz")), 100, &[], false),
        ] {
            assert_eq!(asked.cut(tags, max), (expected.to_vec(), more), "{asked:?} of {max}");
        }
    }

    #[test]
    fn bodies_and_links_are_the_specs() {
        let name: Repository = "a/b".parse().unwrap();
        assert_eq!(tags_list(&name, ["x", "y"]), r#"{"name":"a/b","tags":["x","y"]}"#);
        assert_eq!(tags_list(&name, [""; 0]), r#"{"name":"a/b","tags":[]}"#);
        assert_eq!(catalog(["a", "b/c"]), r#"{"repositories":["a","b/c"]}"#);
        assert_eq!(catalog([""; 0]), r#"{"repositories":[]}"#);
        assert_eq!(link("/v2/a/tags/list", "x", Some(2)), r#"</v2/a/tags/list?n=2&last=x>; rel="next""#);
        assert_eq!(link("/v2/_catalog", "a/b>;\r\n", None), r#"</v2/_catalog?last=a%2Fb%3E%3B%0D%0A>; rel="next""#);
    }

    proptest! {
        #[test]
        fn pages_one_after_the_other_are_the_list(
            list in prop::collection::btree_set("[a-z/%+&é]{1,4}", 0..30),
            n in 1..7usize,
        ) {
            let mut found = Vec::new();
            let mut asked = page(Some(n), None);
            loop {
                let (items, more) = asked.cut(&list, 100);
                found.extend(items.iter().map(|s| s.to_string()));
                if !more {
                    break;
                }
                let link = link("/p", found.last().unwrap(), Some(n));
                let query = link.strip_prefix("</p?").unwrap().strip_suffix(">; rel=\"next\"").unwrap();
                asked = Page::parse(query).unwrap();
            }
            prop_assert_eq!(found, list.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn any_query_is_read_or_refused(query in "(n=|last=|&|%)?\\PC*|[nlast=&%0-9]{0,20}") {
            let _ = Page::parse(&query);
        }
    }
}
