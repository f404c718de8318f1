//! Somebody who gets at the audit log's own table, and what an operator sees of it with the commands.

use reqwest::Method;
use serde_json::{Value, json};
use testkit::troupe;

use super::{ADMIN, Product, admin, asked, with};

/// What a command of the operator says, and whether it succeeds.
async fn audit(product: &Product, arguments: &[&str]) -> (bool, String) {
    let arguments = [&["audit"], arguments, &["--api-key", ADMIN]].concat();
    let said = troupe(product.api().url(), &arguments).await;
    assert!(said.stderr.is_empty() || said.code != Some(0), "{}", said.stderr);
    (said.code == Some(0), said.stdout + &said.stderr)
}

/// What takes the triggers away, which takes whoever owns the table.
const fn without_triggers(product: &Product) -> &'static str {
    match product {
        Product::Embedded(_) => {
            "DROP TRIGGER audit_log_only_grows; DROP TRIGGER audit_log_is_not_changed; DROP TRIGGER audit_log_is_not_shortened;"
        }
        Product::Cluster(_) => "DROP TRIGGER audit_log_is_not_changed ON audit_log;",
    }
}

async fn what_is_done_to_the_audit_log_is_seen(mut product: Product) {
    let api = product.api();
    for name in ["a", "b", "c"] {
        let agent = json!({ "agent_type": "echo", "name": name });
        admin(&api, Method::POST, "/api/v1/agents", Some(&agent)).await.expect(201);
    }
    asked(&api, Method::GET, "/api/v1/agents", with("x-api-key", "a-wrong-key-that-is-long"), None).await.expect(401);
    // What was denied is written a moment later, and so is how the last mutation has ended.
    let entries = testkit::eventually("all of it is written", async || {
        let (_, exported) = audit(&product, &["export"]).await;
        let entries: Vec<Value> =
            exported.lines().map(|line| serde_json::from_str(line).expect("a document")).collect();
        if entries.len() == 7 { Ok((exported, entries)) } else { Err(exported) }
    });
    let (exported, entries) = entries.await;
    let places: Vec<_> = entries.iter().map(|entry| entry["seq"].as_u64()).collect();
    assert_eq!(places, (1..=7).map(Some).collect::<Vec<_>>(), "the oldest first, without gaps");
    let of = |outcome: &str| entries.iter().filter(|entry| entry["outcome"] == outcome).count();
    assert_eq!((of("begun"), of("done"), of("denied")), (3, 3, 1), "{exported}");
    assert!(entries.iter().all(|entry| entry["request_id"].is_string() && entry["hash"].is_string()), "{exported}");
    assert!(!exported.contains(ADMIN), "it tells a secret");

    let (is_good, said) = audit(&product, &["verify"]).await;
    assert!(is_good && said.contains("7 entries, 0 faults"), "{said}");
    let head = said.lines().find_map(|line| line.strip_prefix("head ")).expect("it says where the log ends").to_owned();
    let (is_good, said) = audit(&product, &["verify", "--known", &head]).await;
    assert!(is_good, "{said}");

    for change in ["UPDATE audit_log SET actor = 'nobody' WHERE seq = 2", "DELETE FROM audit_log WHERE seq = 7"] {
        let refused = product.behind_the_back(change).await.expect_err("triggers refuse it");
        assert!(refused.contains("append-only"), "{refused}");
    }
    product.behind_the_back(without_triggers(&product)).await.expect("the owner may");
    // A chain that is cut off is one: who has noted its end knows.
    product.behind_the_back("DELETE FROM audit_log WHERE seq = 7").await.expect("nothing refuses it");
    let (is_good, said) = audit(&product, &["verify"]).await;
    assert!(is_good && said.contains("6 entries, 0 faults"), "{said}");
    let (is_good, said) = audit(&product, &["verify", "--known", &head]).await;
    assert!(!is_good && said.contains("the end of the log was cut off"), "{said}");
    product.behind_the_back("UPDATE audit_log SET actor = 'nobody' WHERE seq = 3").await.expect("nothing refuses it");
    let (is_good, said) = audit(&product, &["verify"]).await;
    assert!(!is_good && said.contains("entry 3 or one before it was changed"), "{said}");
    product.behind_the_back("DELETE FROM audit_log WHERE seq = 3").await.expect("nothing refuses it");
    let (is_good, said) = audit(&product, &["verify"]).await;
    assert!(!is_good && said.contains("entries 3 to 3 are missing"), "{said}");
    product.is_well();
}

both_ways!(what_is_done_to_the_audit_log_is_seen);
