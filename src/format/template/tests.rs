use super::*;

fn rules_of(template: &str) -> Vec<&'static str> {
    defects(template.as_bytes()).iter().map(|d| d.rule.id).collect()
}

#[test]
fn real_templates_pass() {
    let Some(folder) = std::env::var_os("SECUREREG_TEMPLATES") else { return };
    let mut checked = 0;
    let mut refused = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("the folder of templates") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "jinja") {
            checked += 1;
            let text = std::fs::read(&path).expect("a template");
            for defect in defects(&text) {
                let line = text.iter().take(defect.at).filter(|b| **b == b'\n').count() + 1;
                refused.push(format!("{}:{line}: {}: {}", path.display(), defect.rule.id, defect.message));
            }
        }
    }
    assert!(checked > 0, "{folder:?} has no templates");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
#[test]
fn debug_one() {
    let Some(f) = std::env::var_os("T1") else { return };
    for d in defects(&std::fs::read(f).expect("f")) { println!("{d:?}"); }
}
