//! Lists: in the order that is asked for, and no more of each thing than that.

use serde_json::{Value, json};

use crate::rig::Rig;

async fn with_things() -> Rig {
    let rig = Rig::start().await;
    for name in ["a", "b", "c"] {
        rig.post("/api/v1/agents", &json!({ "agent_type": "echo", "name": name, "config": { "n": 1.50 } }))
            .await
            .expect(201);
        let definition = json!({ "name": name, "steps": [{ "id": "x", "agent_type": "echo" }] });
        let workflow = rig.post("/api/v1/workflows", &definition).await.expect(201);
        let path = format!("/api/v1/workflows/{}/execute", workflow["id"].as_str().unwrap());
        rig.post(&path, &json!({})).await.expect(202);
    }
    rig
}

/// All items, page by page.
async fn all(rig: &Rig, path: &str) -> Vec<Value> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = rig.get(&format!("{path}&limit=2{cursor}")).await.expect(200);
        found.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

#[tokio::test]
async fn lists_are_read_in_either_order_page_by_page() {
    let rig = with_things().await;
    for (path, is_newest_first) in
        [("/api/v1/agents", false), ("/api/v1/workflows", false), ("/api/v1/executions", true)]
    {
        let mut oldest = all(&rig, &format!("{path}?sort=created_at")).await;
        assert_eq!(oldest.len(), 3, "{path}");
        let unsorted = all(&rig, &format!("{path}?")).await;
        let newest = all(&rig, &format!("{path}?sort=-created_at")).await;
        assert_eq!(&unsorted, if is_newest_first { &newest } else { &oldest }, "{path}");
        oldest.reverse();
        assert_eq!(newest, oldest, "{path}");
    }
}

#[tokio::test]
async fn a_list_tells_the_fields_that_are_asked_for() {
    let rig = with_things().await;
    for (path, fields) in [
        ("/api/v1/agents", ["id", "config"]),
        ("/api/v1/workflows", ["name", "version"]),
        ("/api/v1/executions", ["id", "status"]),
    ] {
        let whole = rig.get(path).await.expect(200);
        let part = rig.get(&format!("{path}?fields={},{}", fields[1], fields[0])).await.expect(200);
        assert_eq!(part["next_cursor"], whole["next_cursor"]);
        for (part, whole) in part["items"].as_array().unwrap().iter().zip(whole["items"].as_array().unwrap()) {
            assert_eq!(part.as_object().unwrap().len(), 2, "{path}: {part}");
            for field in fields {
                assert_eq!(part[field], whole[field], "{path}");
            }
        }
    }
    for path in ["/api/v1/messages", "/api/v1/dead-letters"] {
        assert_eq!(rig.get(&format!("{path}?fields=id")).await.expect(200)["items"], json!([]));
    }
}

#[tokio::test]
async fn unknown_fields_and_orders_are_refused_by_the_name_of_the_parameter() {
    let rig = Rig::start().await;
    for path in ["agents", "workflows", "executions", "messages", "dead-letters", "auth/keys"] {
        for wrong in ["nothing", "", "id,", "id,id", "id,%20name", "items"] {
            let refused = rig.get(&format!("/api/v1/{path}?fields={wrong}")).await.expect(400);
            assert_eq!(refused["errors"][0]["field"], "fields", "{path} {wrong}: {refused}");
        }
    }
    for path in ["agents", "workflows", "executions"] {
        for wrong in ["name", "", "created_at,id", "%2Bcreated_at"] {
            let refused = rig.get(&format!("/api/v1/{path}?sort={wrong}")).await.expect(400);
            assert_eq!(refused["errors"][0]["field"], "sort", "{path} {wrong}: {refused}");
        }
    }
    // Where there is no index for it.
    assert_eq!(rig.get("/api/v1/messages?sort=created_at").await.expect(400)["errors"][0]["field"], "sort");
}
