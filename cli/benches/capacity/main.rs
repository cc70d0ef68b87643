//! What deployments larger than one machine reach, computed from what an event costs here; the same computation is compared
//! with what this machine can run. `scripts/capacity.sh` runs it, `scripts/capacity.sh jetstream` a part of it.
//!
//! Everything that runs here shares the processors, so a prediction for this machine adds up the costs of all parts. A
//! prediction for other machines gives each part processors of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement has no better answer to an error than to fail"
)]

#[path = "../drain/mod.rs"]
#[allow(dead_code, reason = "each bench uses its own part")]
mod drain;
mod link;
mod model;
mod processes;
mod run;

use std::time::Duration;

use drain::support::{nats, redis};
use link::Link;
use model::{Costs, Here, Site};
use run::{Broker, Databases, Measured};

/// Events of one run, whatever the number of databases.
const EVENTS: i32 = 200_000;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let runs = |part: &str| wanted.is_empty() || wanted.iter().any(|word| word == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let databases = Databases::start();
        let stream = redis::Server::start(&[]);
        let costs = streams(&databases, &stream, runs("streams")).await;
        if runs("cluster") {
            cluster(&databases, &costs).await;
        }
        if runs("distance") {
            distance(&databases, &stream).await;
        }
        if runs("jetstream") {
            jetstream(&databases).await;
        }
        elsewhere(&costs);
    });
}

/// Several databases into one stream, and into one with partitions. Returns the costs of an event.
async fn streams(databases: &Databases, server: &redis::Server, checks: bool) -> Costs {
    let broker = |name: &str, partitions| Broker::redis(&server.url(), name, partitions);
    databases.run(1, |_| broker("warming", 1), EVENTS, None).await;
    let base = databases.run(1, |_| broker("one", 1), EVENTS, None).await;
    let costs = Costs::of(&base);
    let here = Here::of(&base);
    print_costs("Redis Streams", &costs, &here);
    print_head();
    print_check("1 database, one stream (the costs)", here.rate(&costs, 1), &base);
    for (count, partitions) in [(2, 1), (4, 1), (1, 4), (4, 4)].into_iter().filter(|_| checks) {
        let name = format!("{count}-{partitions}");
        let measured = databases.run(count, |_| broker(&name, partitions), EVENTS, None).await;
        let what = format!("{count} database(s), {partitions} partition(s)");
        print_check(&what, here.rate(&costs, count), &measured);
    }
    costs
}

/// Three databases, each with a stream on a node of its own.
async fn cluster(databases: &Databases, costs: &Costs) {
    let cluster = redis::cluster::Cluster::start(3).await;
    let base = databases.run(1, |_| Broker::cluster(&cluster, "{a}one"), EVENTS, None).await;
    let (of_cluster, here) = (Costs::of(&base), Here::of(&base));
    print_costs("Redis Cluster of three", &of_cluster, &here);
    println!("One event costs {:.2} of that without a cluster.\n", of_cluster.all() / costs.all());
    print_head();
    print_check("1 database, one stream (the costs)", here.rate(&of_cluster, 1), &base);
    for count in [2, 4] {
        // Tags that lie in the slots of the first, the second and the third node.
        let stream = |n: usize| Broker::cluster(&cluster, &format!("{{{}}}-{count}", ["b", "c", "a"][n % 3]));
        let measured = databases.run(count, stream, EVENTS, None).await;
        print_check(&format!("{count} databases, a stream each"), here.rate(&of_cluster, count), &measured);
    }
}

/// One database, at some distance from its worker.
async fn distance(databases: &Databases, server: &redis::Server) {
    println!("\n### A database at a distance\n");
    print_head();
    let mut costs = None;
    for delay in [0, 1, 10].map(Duration::from_millis) {
        let link = Link::to(databases.port(), delay).await;
        let name = format!("far-{}", delay.as_millis());
        let broker = |_| Broker::redis(&server.url(), &name, 1);
        let measured = databases.run(1, broker, EVENTS, Some(link.port())).await;
        let round_trip = link.round_trip(&databases.url_at(link.port())).await;
        let costs = costs.get_or_insert_with(|| Costs::of(&measured));
        let what =
            format!("{} ms there and back, measured {:.1} ms", delay.as_millis(), round_trip.as_secs_f64() * 1e3);
        print_check(&what, costs.alone.min(costs.at_distance(round_trip)), &measured);
    }
    println!("\nThe first run passes through the same program as the others, which counts among the others' time.\n");
}

/// Several databases into one stream of three servers.
async fn jetstream(databases: &Databases) {
    let servers = nats::Cluster::start(3);
    let urls: Vec<String> = (0..3).map(|number| servers.url(number)).collect();
    let base = databases.run(1, |_| Broker::nats(&urls, "ONE"), EVENTS / 4, None).await;
    let (costs, here) = (Costs::of(&base), Here::of(&base));
    print_costs("JetStream, three replicas", &costs, &here);
    print_head();
    print_check("1 database (the costs)", here.rate(&costs, 1), &base);
    for count in [2, 4] {
        // Makes the stream, so that no worker meets one whose servers still choose their leader.
        databases.run(1, |_| Broker::nats(&urls, &format!("S{count}")), 1, None).await;
        let measured = databases.run(count, |_| Broker::nats(&urls, &format!("S{count}")), EVENTS / 4, None).await;
        print_check(&format!("{count} databases, one stream"), here.rate(&costs, count), &measured);
    }
}

/// Deployments that do not fit here.
fn elsewhere(costs: &Costs) {
    println!("\n### Computed: machines of their own\n");
    println!("| deployment | events/s | what breaks first |\n|---|---|---|");
    for site in Site::examples() {
        let (rate, limit) = site.reach(costs);
        println!("| {} | {rate:.0} | {limit} |", site.name);
    }
}

fn print_costs(name: &str, costs: &Costs, here: &Here) {
    println!("\n### {name}\n");
    println!(
        "An event costs {:.1} µs of processor time: database {:.1}, broker {:.1}, worker {:.1}; {:.0} bytes of WAL. {:.0} % of {} \
         processors were busy.\n",
        costs.all() * 1e6,
        costs.database * 1e6,
        costs.broker * 1e6,
        costs.worker * 1e6,
        costs.wal,
        here.busy * 100.0,
        here.processors
    );
}

fn print_head() {
    println!(
        "| run | predicted, events/s | measured | measured / predicted | busy | others | processor time per event |"
    );
    println!("|---|---|---|---|---|---|---|");
}

fn print_check(what: &str, predicted: f64, measured: &Measured) {
    println!(
        "| {what} | {predicted:.0} | {:.0} | {:.2} | {:.0} % | {:.0} % | {:.1} µs |",
        measured.rate,
        measured.rate / predicted,
        measured.busy() * 100.0,
        measured.others() * 100.0,
        Costs::of(measured).all() * 1e6
    );
}
