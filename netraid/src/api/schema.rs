//! JSON schemas of the documents that others poll, made from their types; committed in `docs/schema`.

use schemars::schema_for;
use serde_json::Value;

use super::document::{Answer, Events, Mirrors, Order};
use crate::meta::document::Document;

/// Each document's file and its schema.
pub fn schemas() -> [(&'static str, Value); 5] {
    [
        ("netraid.mirrors-1.json", schema_for!(Mirrors).to_value()),
        ("netraid.events-1.json", schema_for!(Events).to_value()),
        ("netraid.answer-1.json", schema_for!(Answer).to_value()),
        ("netraid.order-1.json", schema_for!(Order).to_value()),
        ("netraid.meta-1.json", schema_for!(Document).to_value()),
    ]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_committed_schemas_are_what_the_types_give() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema");
        for (file, schema) in schemas() {
            let path = folder.join(file);
            let now = format!("{schema:#}\n");
            if std::env::var_os("NETRAID_UPDATE").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &now).unwrap();
            }
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                now == committed,
                "{file} is not what the types give; NETRAID_UPDATE=1 cargo test -p netraid --lib schema writes it anew"
            );
        }
    }
}
