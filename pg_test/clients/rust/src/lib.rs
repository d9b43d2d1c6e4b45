//! Named checks: each runs by itself on empty queues and prints `ok - name` or `not ok - name: reason`.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::process::{Command, exit};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;

pub type Error = Box<dyn std::error::Error + Send + Sync>;

static PANIC: Mutex<String> = Mutex::new(String::new());
static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Calls each of the functions with a fresh connection; a function's name is its check's name.
#[macro_export]
macro_rules! run {
    ($connect:expr; $($check:ident),+ $(,)?) => {{
        let mut tally = $crate::Tally::start();
        $(tally.check(&stringify!($check).replace('_', " "), async { $check($connect().await?).await }).await;)+
        tally.end()
    }};
}

#[derive(Default)]
pub struct Tally {
    passed: u32,
    failed: u32,
}

impl Tally {
    pub fn start() -> Self {
        std::panic::set_hook(Box::new(|info| {
            let line = info.location().map_or(0, |place| place.line());
            let text = info.payload_as_str().unwrap_or("panic");
            *PANIC.lock().unwrap() = format!("line {line}: {text}");
        }));
        Tally::default()
    }

    pub async fn check(&mut self, name: &str, work: impl Future<Output = Result<(), Error>> + Send + 'static) {
        empty_the_queues();
        // A task of its own: a failed assertion ends it and nothing else.
        let reason = match tokio::spawn(work).await {
            Ok(Ok(())) => {
                self.passed += 1;
                println!("ok - {name}");
                return;
            }
            Ok(Err(error)) => described(error.as_ref()),
            Err(_) => PANIC.lock().unwrap().clone(),
        };
        self.failed += 1;
        println!("not ok - {name}: {}", reason.replace('\n', " | "));
    }

    pub fn end(self) -> ! {
        println!("{} passed, {} failed", self.passed, self.failed);
        exit(i32::from(self.failed > 0 || self.passed == 0))
    }
}

fn described(error: &(dyn std::error::Error + 'static)) -> String {
    let source = error.source().map(described).unwrap_or_default();
    format!("{error} {source}").trim_end().to_owned()
}

pub fn database_url() -> String {
    std::env::var("DATABASE_URL").expect("DATABASE_URL is set by the runner")
}

/// A role without rights, made by the runner.
pub fn client_role() -> String {
    std::env::var("CLIENT_ROLE").expect("CLIENT_ROLE is set by the runner")
}

/// Asks again until it is so.
pub async fn eventually<F: Future<Output = Result<bool, Error>>>(mut condition: impl FnMut() -> F) -> Result<(), Error> {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !condition().await? {
        if std::time::Instant::now() > deadline {
            return Err("still not so after 60 seconds".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn contract() -> Value {
    serde_json::from_str(include_str!("../../contract.json")).expect("contract.json is JSON")
}

pub fn views() -> Vec<String> {
    let names = contract()["views"].as_array().cloned().unwrap_or_default();
    names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// One row as the driver gave it: for each column its SQL type, and whether there was a value.
pub type Columns = BTreeMap<String, (&'static str, bool)>;

/// Every column of the contract is there, with the contract's type.
pub fn judge(row_type: &str, row: &Columns) {
    for (column, sql_type) in contract()["rows"][row_type].as_object().into_iter().flatten() {
        let (got, is_there) = row.get(column).unwrap_or_else(|| panic!("{row_type} lacks {column}"));
        assert_eq!(sql_type, got, "{row_type}.{column}");
        if *is_there {
            SEEN.lock().unwrap().insert(format!("{row_type}.{column}"));
        }
    }
}

/// Every column of the contract has been read with a value in it.
pub fn all_seen(may_be_null: &[&str]) {
    let seen = SEEN.lock().unwrap();
    let rows = contract()["rows"].as_object().cloned().unwrap_or_default();
    let columns = rows
        .iter()
        .flat_map(|(row, columns)| columns.as_object().into_iter().flatten().map(move |(column, _)| format!("{row}.{column}")));
    let unseen: Vec<String> = columns.filter(|c| !seen.contains(c) && !may_be_null.contains(&c.as_str())).collect();
    assert_eq!(unseen, Vec::<String>::new(), "never read with a value");
}

fn empty_the_queues() {
    // Running jobs that a check has left behind end when something rescues them. Another connection, not
    // counted: the runner asks afterwards which functions the client called.
    let sql = "SET track_functions = none; SELECT jobq.cancel(id) FROM jobq.jobs WHERE finished_at IS NULL";
    let done = Command::new("psql").args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]).output();
    assert!(done.is_ok_and(|output| output.status.success()), "psql could not empty the queues");
}
