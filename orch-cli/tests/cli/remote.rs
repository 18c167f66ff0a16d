//! Every command against a service: the same answers, and what a worker of a service does.

#[cfg(all(feature = "remote", feature = "serve"))]
mod served {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::Value;

    use crate::kit::{Ended, Lab, Service, Worker};

    /// A laboratory whose commands go to the service that runs in it, or to the store in it.
    struct Place {
        lab: Lab,
        service: Option<Service>,
    }

    impl Place {
        fn here() -> Self {
            Self { lab: Lab::new(), service: None }
        }

        fn served() -> Self {
            let lab = Lab::new();
            let service = Service::start(&lab, &[]);
            Self { lab, service: Some(service) }
        }

        fn words<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
            let [first, rest @ ..] = words else { panic!("no command") };
            let to: &[&str] = match &self.service {
                None => &["--actor", "local"],
                Some(service) => &["--server", &service.address, "--token", &service.token],
            };
            [&[*first], to, rest].concat()
        }

        fn orch(&self, words: &[&str]) -> Ended {
            let ended = self.lab.orch(&self.words(words));
            if let Some(service) = &self.service {
                let said = format!("{}{}", ended.stdout, ended.stderr);
                assert!(!said.contains(&service.token), "{words:?}: {said}");
            }
            ended
        }

        fn json(&self, words: &[&str]) -> Value {
            self.lab.json(&self.words(words))
        }
    }

    const FLOW: &str = "
inputs: { type: object, properties: { word: { type: string } } }
steps:
  - { id: say, uses: fn/echo, with: \"${{ inputs.word }}\" }
  - { id: ask, uses: gate/approval, needs: [say], with: { message: may it } }
  - { id: hear, uses: wait/signal, needs: [ask], with: { name: go } }
  - { id: end, uses: fn/echo, needs: [hear], with: done }
";
    const HELD: &str = "steps: [{ id: ask, uses: gate/approval, with: { message: may it } }]\n";
    const BAD: &str = "steps: [{ id: bad, uses: fn/fail, with: { message: no } }]\n";

    /// Whether a word differs between two executions of the same: it has a digit, or is a part of an id that happens to have none.
    fn differs(word: &str) -> bool {
        let hex = |byte: u8| matches!(byte, b'a'..=b'f');
        let part = matches!(word.len(), 4 | 8 | 12) && word.bytes().all(hex);
        part || word.bytes().any(|byte| byte.is_ascii_digit())
    }

    /// What differs between two executions of the same is taken out.
    fn masked(text: &str) -> String {
        let mut masked = String::new();
        for line in text.lines() {
            let words = line.split(|character: char| !character.is_ascii_alphanumeric());
            // Which process did it is what the record tells of both.
            let mut line = line.replace("server/", "cli/");
            for word in words.filter(|word| differs(word)) {
                line = line.replacen(word, "#", 1);
            }
            let line: Vec<_> = line.split_whitespace().filter(|word| !word.starts_with('─')).collect();
            masked.push_str(&line.join(" ").replace("#.#", "#"));
            masked.push('\n');
        }
        masked
    }

    /// The whole of what `orch` does, a command after the other.
    const COMMANDS: &[&[&str]] = &[
        &["dag", "publish", "flow.yaml"],
        &["run", "flow.yaml", "word=hello", "--run-token", "t-zero"],
        &["gate", "list"],
        &["explain", "latest", "hear"],
        &["gate", "decide", "latest", "ask", "approve", "--reason", "fine", "--ticket", "T-1"],
        &["signal", "send", "latest", "go"],
        &["runs", "watch", "latest"],
        &["runs", "show", "latest"],
        &["runs", "list", "--status", "completed"],
        &["runs", "logs", "latest"],
        &["explain", "latest", "end"],
        &["runs", "events", "latest"],
        &["run", "bad.yaml", "--run-token", "t-bad"],
        &["runs", "retry", "latest", "--reason", "again", "--ticket", "T-2"],
        &["runs", "show", "latest"],
        &["runs", "replay", "latest", "--reason", "the same", "--ticket", "T-3"],
        &["run", "held.yaml", "--run-token", "t-one", "--no-work"],
        &["runs", "pause", "latest", "--reason", "wait", "--ticket", "T-4"],
        &["runs", "resume", "latest", "--no-work", "--reason", "go on", "--ticket", "T-5"],
        &["runs", "cancel", "latest", "--reason", "no more", "--ticket", "T-6"],
        &["runs", "resume", "latest", "--reason", "go on", "--ticket", "T-7"],
        &["runs", "show", "0123456789abcdef0123456789abcdef"],
        &["run", "flow.yaml", "word=1", "--inputs", "{\"word\": 1}"],
        &["dag", "list"],
        &["dag", "show", "flow"],
        &["dag", "disable", "flow@1"],
        &["dag", "enable", "flow@1"],
        &["dag", "show", "nothing"],
        &["ledger", "verify"],
        &["export", "--output", "all.ndjson"],
        &["ledger", "verify", "--export", "all.ndjson"],
        &["ledger", "checkpoint", "--output", "point.json"],
        &["ledger", "verify", "--checkpoint", "point.json"],
        &["runs", "prune", "--older-than", "0s"],
        &["runs", "list"],
        &["ledger", "verify", "--checkpoint", "point.json"],
    ];

    #[test]
    fn every_command_answers_as_it_does_without_a_service() {
        let places = [Place::here(), Place::served()];
        for place in &places {
            place.lab.dag("flow", FLOW).dag("bad", BAD).dag("held", HELD);
        }
        for words in COMMANDS {
            let told = places.each_ref().map(|place| {
                let ended = place.orch(words);
                assert!(ended.code == 0 || !ended.stderr.is_empty() || !ended.stdout.is_empty(), "{words:?}");
                (ended.code, masked(&ended.stdout))
            });
            assert_eq!(told[0], told[1], "{words:?}");
        }
        // The same for machines: the same fields in the same places.
        for words in [&["runs", "list"][..], &["dag", "list"], &["dag", "show", "flow"]] {
            let [here, served] = places.each_ref().map(|place| shape(&place.json(words)));
            assert_eq!(here, served, "{words:?}");
        }
    }

    /// The names of all fields, and where they are.
    fn shape(value: &Value) -> Vec<String> {
        match value {
            Value::Object(fields) => {
                let below = |(name, value): (&String, &Value)| {
                    let inner =
                        shape(value).into_iter().map(|path| format!("{name}.{path}")).collect::<Vec<_>>();
                    [vec![name.clone()], inner].concat()
                };
                fields.iter().flat_map(below).collect()
            }
            Value::Array(items) => items.iter().flat_map(shape).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn a_token_that_is_no_good_and_a_service_that_is_not_there_are_told_apart() {
        let place = Place::served();
        let service = place.service.as_ref().unwrap();
        let denied = place.lab.orch(&["runs", "list", "--server", &service.address, "--token", "nonsense"]);
        assert!(denied.code == 2 && denied.stderr.contains("401 UNAUTHENTICATED"), "{denied:?}");
        let plain = place.lab.orch(&["runs", "list", "--server", "http://orch.example", "--token", "x"]);
        assert!(plain.code == 1 && plain.stderr.contains("https"), "{plain:?}");
        let gone = place.lab.orch(&["runs", "list", "--server", "http://127.0.0.1:1", "--token", "x"]);
        assert!(gone.code == 1 && gone.stderr.contains("cannot be reached"), "{gone:?}");
        let both = place.lab.orch(&["runs", "list", "--server", &service.address, "--store", "memory:"]);
        assert!(both.code == 1 && both.stderr.contains("cannot be used with"), "{both:?}");
        let word = place.orch(&["run", "flow.yaml", "--sandbox", "none"]);
        assert_eq!(word.code, 1, "{word:?}");
        place.lab.write("token", &format!("{}\n", service.token));
        let file = place.lab.orch(&["doctor", "--server", &service.address, "--token", "@token", "--json"]);
        assert!(file.code == 0 && file.stdout.contains("may look at the runs"), "{file:?}");
    }

    const OUTSIDE: &str = "
inputs: { type: object, properties: { image: { type: string } } }
steps:
  - { id: scan, uses: worker/scan, with: { image: \"${{ inputs.image }}\" }, timeout: 1h }
";

    /// The words that make a worker.
    fn worker<'a>(place: &'a Place, words: &[&'a str]) -> Vec<&'a str> {
        [place.words(&["work", "--type", "scan", "--lease", "3s"]), words.to_vec()].concat()
    }

    #[test]
    fn a_worker_executes_steps_of_a_service_by_a_command() {
        let place = Place::served();
        place.lab.dag("outside", OUTSIDE);
        let submitted = place.orch(&["run", "outside.yaml", "image=alpine", "--no-work"]);
        assert_eq!(submitted.code, 0, "{submitted:?}");
        let script = "echo looking >&2; cat; test \"$ORCH_STEP\" = scan";
        let worked = place.lab.orch(&worker(&place, &["--until-idle", "--", "sh", "-c", script]));
        assert!(worked.code == 0 && worked.stdout.contains("succeeded  scan  outside run "), "{worked:?}");
        let shown = place.json(&["runs", "show", "latest"]);
        assert_eq!(
            (&shown["status"], &shown["outputs"]["scan"]["image"]),
            (&"completed".into(), &"alpine".into())
        );
        let logs = place.orch(&["runs", "logs", "latest"]).stdout;
        assert!(logs.contains("looking"), "{logs}");

        place.orch(&["run", "outside.yaml", "image=busybox", "--no-work"]);
        let failing = worker(&place, &["--until-idle", "--json", "--", "sh", "-c", "exit 3"]);
        let worked = place.lab.orch(&failing);
        let told: Value = serde_json::from_str(worked.stdout.lines().next().unwrap()).unwrap();
        assert!(told["status"] == "failed" && told["message"].as_str().unwrap().contains("exit_3"), "{told}");
        let bare = place.lab.orch(&place.words(&["work"]));
        assert!(bare.code == 1 && bare.stderr.contains("--type TYPE"), "{bare:?}");
    }

    /// Waits until a file is there.
    fn appears(lab: &Lab, name: &str) {
        static LOOKS: AtomicUsize = AtomicUsize::new(0);
        for _ in 0..3_000 {
            if lab.path(name).exists() {
                return;
            }
            LOOKS.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("{name} does not appear");
    }

    #[cfg(unix)]
    #[test]
    fn a_worker_hears_that_a_run_is_cancelled_and_gives_back_what_it_is_stopped_in() {
        use rustix::process::Signal;

        let place = Place::served();
        place.lab.dag("outside", OUTSIDE);
        let script = "touch $ORCH_RUN_ID-$ORCH_ATTEMPT; exec sleep 600";
        let words = worker(&place, &["--", "sh", "-c", script]);
        let first = Worker::start(&place.lab, &words);
        place.orch(&["run", "outside.yaml", "image=a", "--no-work"]);
        let run = place.json(&["runs", "list"])["runs"][0]["run"].as_str().unwrap().to_owned();
        appears(&place.lab, &format!("{run}-1"));
        let cancelled = place.orch(&["runs", "cancel", &run, "--reason", "no", "--ticket", "T-1"]);
        assert!(cancelled.stdout.contains("cancelled"), "{cancelled:?}");

        place.orch(&["run", "outside.yaml", "image=b", "--no-work"]);
        let run = place.json(&["runs", "list"])["runs"][0]["run"].as_str().unwrap().to_owned();
        appears(&place.lab, &format!("{run}-1"));
        // Once to say that nothing new is begun, twice to stop what was.
        first.signal(Signal::INT);
        let mut first = first;
        first.hear("Ctrl-C stops them now");
        first.signal(Signal::INT);
        let ended = first.end();
        assert_eq!(ended.code, 0, "{ended:?}");
        // Nobody waits for the lease to be over: it was given back.
        let second = place.lab.orch(&worker(&place, &["--until-idle", "--", "sh", "-c", "echo again"]));
        assert!(second.stdout.contains("attempt 2"), "{second:?}");
        assert_eq!(place.json(&["runs", "show", &run])["status"], "completed");
    }
}

#[cfg(not(feature = "remote"))]
#[test]
fn a_build_without_the_services_client_says_how_to_get_one() {
    for words in [&["runs", "list"][..], &["work"], &["doctor"]] {
        let ended = crate::kit::Lab::new().orch(&[words, &["--server", "http://127.0.0.1:1"]].concat());
        assert!(ended.code == 1 && ended.stderr.contains("--features remote"), "{ended:?}");
    }
}
