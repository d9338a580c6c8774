//! Tests of the guard.
//!
//! Owns: headers made by hand that fire each rule, and the forms Go prints. Promises: nothing. Leaves out: whole files
//! (tests/guard.rs).
