//! A source in which every mutant is there, and a number that is read when the tests start chooses one.
//!
//! ```text
//! a == b              (if crate::mutant(7) { a != b } else { a == b })
//! fn f() -> T { .. }  fn f() -> T { if crate::mutant(8) { return VALUE; } .. }
//! P if g => x         P if !crate::mutant(9) && (g) => x           the arm deleted
//! ```
//! Owns: the rewriting. Promises: a mutant's branch is the text that stood there with the mutant's edit in it, taken as far out
//! as the edit can change how operators bind, so it means what the edited file would mean; the other branch holds the mutants
//! inside. Leaves out: whether the result compiles (`build`), and what has no such form: it is handed back.

use super::list::{Genre, Mutant};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{BinOp, Expr};

/// A file that holds its mutants.
pub(crate) struct Rewritten {
    pub(crate) text: String,
    pub(crate) regions: Regions,
    /// Those that have no form in which they can be chosen.
    pub(crate) left: Vec<u32>,
}

/// What was written for which mutants: an error of the compiler in there is theirs. Regions lie in each other.
pub(crate) type Regions = Vec<(Range<usize>, Vec<u32>)>;

/// Puts the mutants into the source of their file.
pub(crate) fn rewrite(source: &str, mutants: &[&Mutant]) -> Result<Rewritten, String> {
    let file = syn::parse_file(source).map_err(|e| e.to_string())?;
    let mut places =
        Places { source, mutants, edits: BTreeMap::new(), placed: BTreeSet::new(), root: None, chain: false };
    places.visit_file(&file);
    let left = mutants.iter().map(|m| m.number).filter(|n| !places.placed.contains(n)).collect();
    let (text, regions) = write(source, places.edits);
    Ok(Rewritten { text, regions, left })
}

/// The file with one mutant's edit, as cargo-mutants would make it.
pub(crate) fn edited(source: &str, mutant: &Mutant) -> String {
    let Range { start, end } = mutant.span;
    format!("{} {} {}", &source[..start], mutant.replacement, &source[end..])
}

/// Around or before which bytes something is written. Sorted so that what lies outside comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    start: usize,
    end: Reverse<usize>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Around a match with arms that can be deleted: nothing is written, but that none is left for a value is told of it.
    Match,
    /// After the pattern of an arm, or the brace of a function: nothing is enclosed.
    Point,
    /// Before the guard with `let` of an arm that can be deleted.
    LetGuard,
    /// Around the guard of an arm that can be deleted.
    Guard,
    /// Around an expression that has other forms.
    Choice,
}

struct Places<'a> {
    source: &'a str,
    mutants: &'a [&'a Mutant],
    /// What each mutant's text is there.
    edits: BTreeMap<Place, Vec<(u32, String)>>,
    placed: BTreeSet<u32>,
    /// The outermost of the operators of which the next expression is an operand without parentheses.
    root: Option<Range<usize>>,
    /// Whether the next expression is an operand of an `&&` that binds with `let`: such a chain can't be enclosed.
    chain: bool,
}

impl<'a> Places<'a> {
    fn of(&self, genre: Genre, is_it: impl Fn(&Range<usize>) -> bool) -> Vec<&'a Mutant> {
        self.mutants.iter().copied().filter(|m| m.genre == genre && is_it(&m.span)).collect()
    }

    fn put(&mut self, kind: Kind, range: Range<usize>, mutant: &Mutant, text: String) {
        let place = Place { start: range.start, end: Reverse(range.end), kind };
        self.edits.entry(place).or_default().push((mutant.number, text));
        self.placed.insert(mutant.number);
    }

    /// An expression that has another form: its text with the mutant's edit.
    fn choice(&mut self, range: Range<usize>, mutant: &Mutant) {
        let Range { start, end } = mutant.span;
        let text =
            format!("{} {} {}", &self.source[range.start..start], mutant.replacement, &self.source[end..range.end]);
        self.put(Kind::Choice, range, mutant, text);
    }

    fn binary(&mut self, binary: &syn::ExprBinary, root: Option<Range<usize>>, in_chain: bool) {
        let chained = matches!(binary.op, BinOp::And(_)) && (in_chain || operands_hold_let(binary));
        let root = match root {
            Some(root) if !assigns(&binary.op) => root,
            _ => range(binary),
        };
        let operator = range(&binary.op);
        if !chained {
            for mutant in self.of(Genre::BinaryOperator, |span| *span == operator) {
                self.choice(root.clone(), mutant);
            }
        }
        for side in [&binary.left, &binary.right] {
            let binds = matches!(&**side, Expr::Binary(inner) if !assigns(&inner.op));
            self.chain = chained;
            self.root = (binds && !chained && !assigns(&binary.op)).then(|| root.clone());
            self.visit_expr(side);
        }
    }

    fn body(&mut self, signature: &syn::Signature, block: &syn::Block) {
        // Two values would be of two types.
        if Opaque::stands_in(&signature.output) {
            return;
        }
        let Some(first) = block.stmts.first() else { return };
        let (start, open) = (range(first).start, range(&block.brace_token.span.open()).end);
        for mutant in self.of(Genre::FnValue, |span| span.start == start) {
            self.put(Kind::Point, open..open, mutant, format!(" return {};", mutant.replacement));
        }
    }
}

impl<'ast> Visit<'ast> for Places<'_> {
    fn visit_expr(&mut self, expr: &'ast Expr) {
        let (root, chain) = (self.root.take(), std::mem::take(&mut self.chain));
        match expr {
            Expr::Binary(binary) => return self.binary(binary, root, chain),
            Expr::Unary(unary) => {
                let operator = range(&unary.op);
                for mutant in self.of(Genre::UnaryOperator, |span| *span == operator) {
                    self.choice(range(unary), mutant);
                }
            }
            Expr::Struct(whole) => {
                for field in &whole.fields {
                    let start = range(field).start;
                    for mutant in self.of(Genre::StructField, |span| span.start == start) {
                        self.choice(range(whole), mutant);
                    }
                }
            }
            Expr::Match(whole) => {
                let starts: Vec<usize> = whole.arms.iter().map(|arm| range(arm).start).collect();
                for mutant in self.of(Genre::MatchArm, |span| starts.contains(&span.start)) {
                    self.put(Kind::Match, range(whole), mutant, String::new());
                }
            }
            _ => {}
        }
        visit::visit_expr(self, expr);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let (start, after) = (range(arm).start, range(&arm.pat).end);
        let guard = arm.guard.as_ref().map(|(_, guard)| (range(&**guard), holds_let(guard)));
        for mutant in self.of(Genre::MatchArm, |span| span.start == start) {
            match &guard {
                None => self.put(Kind::Point, after..after, mutant, String::new()),
                Some((place, false)) => self.put(Kind::Guard, place.clone(), mutant, String::new()),
                Some((place, true)) => self.put(Kind::LetGuard, place.start..place.start, mutant, String::new()),
            }
        }
        if let Some((place, false)) = &guard {
            for mutant in self.of(Genre::MatchArmGuard, |span| span == place) {
                self.choice(place.clone(), mutant);
            }
        }
        visit::visit_arm(self, arm);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.body(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.body(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.body(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

/// Looks for `impl Trait`.
struct Opaque(bool);

impl Opaque {
    fn stands_in(output: &syn::ReturnType) -> bool {
        let mut opaque = Opaque(false);
        opaque.visit_return_type(output);
        opaque.0
    }
}

impl<'ast> Visit<'ast> for Opaque {
    fn visit_type_impl_trait(&mut self, _: &'ast syn::TypeImplTrait) {
        self.0 = true;
    }
}

fn range(node: &impl Spanned) -> Range<usize> {
    node.span().byte_range()
}

/// Whether it is `+=` or the like, which binds looser than what stands right of it.
fn assigns(op: &BinOp) -> bool {
    use BinOp::*;
    matches!(
        op,
        AddAssign(_)
            | SubAssign(_)
            | MulAssign(_)
            | DivAssign(_)
            | RemAssign(_)
            | BitXorAssign(_)
            | BitAndAssign(_)
            | BitOrAssign(_)
            | ShlAssign(_)
            | ShrAssign(_)
    )
}

fn holds_let(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(binary) if matches!(binary.op, BinOp::And(_)) => operands_hold_let(binary),
        _ => false,
    }
}

fn operands_hold_let(binary: &syn::ExprBinary) -> bool {
    holds_let(&binary.left) || holds_let(&binary.right)
}

/// Something that is written at a byte of the source.
struct Piece {
    at: usize,
    /// At one byte: first what ends there, the innermost first; then points; then what begins, the outermost first.
    order: (u8, usize),
    place: usize,
    text: String,
    /// Where each mutant's own part of the text lies.
    own: Vec<(Range<usize>, u32)>,
}

fn write(source: &str, edits: BTreeMap<Place, Vec<(u32, String)>>) -> (String, Regions) {
    let mut pieces = Vec::new();
    let count = edits.len();
    let mut all = Vec::new();
    for (place, (Place { start, end: Reverse(end), kind }, forms)) in edits.into_iter().enumerate() {
        let (mut text, mut own) = (String::new(), Vec::new());
        for (i, (number, form)) in forms.iter().enumerate() {
            let from = text.len();
            text += &match kind {
                Kind::Match => String::new(),
                Kind::Point if form.is_empty() => format!(" if !crate::mutant({number})"),
                Kind::Point => format!(" if crate::mutant({number}) {{{form} }}"),
                Kind::Guard | Kind::LetGuard => format!("!crate::mutant({number}) && "),
                Kind::Choice => {
                    let lead = if i == 0 { "(" } else { " else " };
                    format!("{lead}if crate::mutant({number}) {{ {form} }}")
                }
            };
            if kind != Kind::Match {
                own.push((from..text.len(), *number));
            }
        }
        let after = match kind {
            Kind::Match | Kind::Point | Kind::LetGuard => "",
            Kind::Guard => {
                text.push('(');
                ")"
            }
            Kind::Choice => {
                text += " else { ";
                " })"
            }
        };
        // Places come the outermost first.
        let point = start == end;
        let order = if point { 1 } else { 2 };
        pieces.push(Piece { at: start, order: (order, place), place, text, own });
        pieces.push(Piece {
            at: end,
            order: (u8::from(point), count - place),
            place,
            text: after.to_owned(),
            own: Vec::new(),
        });
        all.push(forms.into_iter().map(|(number, _)| number).collect::<Vec<_>>());
    }
    pieces.sort_by_key(|p| (p.at, p.order));
    let (mut out, mut done, mut regions) = (String::new(), 0, Vec::new());
    let mut begun = vec![None; count];
    for piece in pieces {
        out += &source[done..piece.at];
        done = piece.at;
        regions.extend(piece.own.into_iter().map(|(r, number)| (out.len() + r.start..out.len() + r.end, vec![number])));
        let from = *begun[piece.place].get_or_insert(out.len());
        out += &piece.text;
        if piece.order.0 == 0 {
            regions.push((from..out.len(), all[piece.place].clone()));
        }
    }
    out += &source[done..];
    (out, regions)
}
