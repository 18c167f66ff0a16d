//! A secret that was planted everywhere appears nowhere.

use std::io::Write;
use std::sync::{Arc, Mutex};

use http::{Method, StatusCode};
use orch::executor::{Failure, Secret, StepContext};
use orch::{Limits, Orchestrator};
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;

use super::{FULL, Service, ask, tenant, token};
use crate::auth::{ApiToken, Authentication, Scopes, Tenants};
use crate::{Metrics, Settings, router};

/// The value of a declared secret, and part of what callers send as credentials.
const SECRET: &str = "hunter2-planted";
const EVERYTHING: &str = "hunter2-planted-token-for-every-tenant";

/// Collects what is logged.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

const LEAKY: &str = "
apiVersion: orch/v1
kind: Dag
id: leaky
steps:
  - { id: says, uses: fn/says, secrets: [KEY] }
  - { id: fails, uses: fn/fails, secrets: [KEY], needs: [says] }
";

/// Says its secret wherever a step can say something.
async fn says(context: StepContext, _: Value) -> Result<Value, Failure> {
    let secret = context.secrets["KEY"].expose().to_owned();
    context.log.line(orch::executor::LogStream::Step, &format!("the key is {secret}"));
    context.progress.note(&format!("using {secret}"));
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    Ok(json!({ "key": secret, "nested": [{ "again": format!("x{secret}y") }] }))
}

async fn fails(context: StepContext, _: Value) -> Result<Value, Failure> {
    Err(Failure::fatal("no", format!("{} was refused", context.secrets["KEY"].expose())))
}

#[tokio::test]
async fn a_planted_secret_appears_in_no_answer_no_log_no_record_and_no_metric() {
    let log = Log::default();
    let layer = tracing_subscriber::fmt::layer().json().with_writer(log.clone());
    let _logging = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let every = ApiToken { tenants: Tenants::Every, ..token(EVERYTHING, &[], Scopes::all()) };
    let metrics = Metrics::default();
    let settings = orch::engine::Settings {
        lease: std::time::Duration::from_millis(300),
        ..orch::engine::Settings::default()
    };
    let orch = Orchestrator::builder()
        .settings(settings)
        .observe(metrics.observer())
        .secrets(|_, name| (name == "KEY").then(|| Secret::new(SECRET).unwrap()))
        .task("says", says)
        .task("fails", fails)
        .start()
        .unwrap();
    let who = orch::Identity::new(tenant("acme"), "setup");
    orch.publish(&who, orch::spec::parse("leaky.yaml", LEAKY, &Limits::default()).unwrap()).await.unwrap();
    let tokens = vec![every, token(FULL, &["acme"], Scopes::all())];
    let authentication = Authentication { tokens, ..Authentication::default() };
    let router = router(orch.clone(), Settings { authentication, metrics, ..Settings::default() });
    let service = Service { orch: orch.clone(), router };

    let run = service.post("/runs", json!({ "dagId": "leaky" })).await.expect(StatusCode::CREATED);
    let run = run["runId"].as_str().unwrap().to_owned();
    orch.wait(&who, run.parse().unwrap()).await.unwrap();
    let mut said = Vec::new();
    for path in [
        "/runs".to_owned(),
        format!("/runs/{run}"),
        format!("/runs/{run}/steps"),
        format!("/runs/{run}/steps/says"),
        format!("/runs/{run}/steps/fails"),
        format!("/runs/{run}/events"),
        format!("/runs/{run}/logs"),
        format!("/runs/{run}/explain?stepId=fails"),
        "/audit".to_owned(),
    ] {
        let answer = service.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path} {}", answer.text);
        said.push(answer.text);
    }
    assert!(said.iter().any(|text| text.contains("the key is")), "the log was looked at");
    assert!(said.iter().any(|text| text.contains("was refused")), "the failure was looked at");
    assert!(said.iter().any(|text| text.contains("using ")), "the progress was looked at");
    // What callers send as credentials, wherever they put it.
    let mut wrong = ask(Method::GET, "/runs", Some(EVERYTHING), Some("stranger tenant"), None);
    wrong.headers_mut().insert("cookie", format!("session={SECRET}").parse().unwrap());
    wrong.headers_mut().insert("x-api-key", SECRET.parse().unwrap());
    said.push(service.send(wrong).await.text);
    said.push(
        service
            .send(ask(Method::GET, "/runs", Some(&format!("{SECRET}.x.y")), Some("acme"), None))
            .await
            .text,
    );
    said.push(service.send(ask(Method::GET, "/admin/metrics", Some(EVERYTHING), None, None)).await.text);
    let export = service.post("/exports", json!({})).await;
    said.push(export.text);
    said.push(String::from_utf8(log.0.lock().unwrap().clone()).unwrap());
    assert!(said.last().unwrap().contains("\"operation\":\"startRun\""), "requests are logged");
    for text in said {
        assert!(!text.contains("hunter2"), "{text}");
    }
}
