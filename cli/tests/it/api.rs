//! Tests the console's JSON API against its OpenAPI document, with a program that knows only the document.

use std::process::Command;

use crate::python;
use crate::test_outbox::TestOutbox;
use crate::web::{Console, OPERATOR, secrets};

/// Below the console's rate limit, which would refuse more requests.
const RATE: &str = "80/s";

/// Sends valid, invalid and borderline requests, with the secret, a wrong one and none, and checks the responses.
#[tokio::test]
async fn what_the_api_answers_is_what_its_description_says() {
    let test = TestOutbox::new().await;
    let insert = "INSERT INTO outbox_events (id, event_type, source, subject, status, partition_key, data) \
        SELECT gen_random_uuid(), 't', 's', 'order-' || n, (ARRAY['pending', 'failed', 'published', 'retry'])[n % 4 + 1], \
            'k-' || n % 3, '{}' FROM generate_series(1, 300) n";
    test.sql().await.batch_execute(insert).await.unwrap();
    // A third of the events stays, whatever is deleted.
    let keep = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
        CREATE TRIGGER keep BEFORE DELETE ON outbox_events FOR EACH ROW WHEN (OLD.partition_key = 'k-0') \
        EXECUTE FUNCTION keep()";
    test.sql().await.batch_execute(keep).await.unwrap();
    let id: String = test
        .sql()
        .await
        .query_one("SELECT id::text FROM outbox_events WHERE partition_key = 'k-0' LIMIT 1", &[])
        .await
        .unwrap()
        .get(0);
    let console = Console::open(&test, &secrets()).await;

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("schemathesis.toml"), format!("[parameters]\n\"path.id\" = \"{id}\"\n")).unwrap();
    let schemathesis = python::interpreter("schemathesis", &["schemathesis==4.32.5"]).with_file_name("schemathesis");
    let output = Command::new(schemathesis)
        .current_dir(&folder)
        .arg("run")
        .arg(format!("http://{}/api/v1/openapi.json", console.host()))
        .args(["--header", &format!("Authorization: Bearer {OPERATOR}"), "--rate-limit", RATE])
        .args(["--checks", "all", "--max-examples", "40", "--seed", "7", "--no-color"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("Tested: 15"), "{said}");
}
