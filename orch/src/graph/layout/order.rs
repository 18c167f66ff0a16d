//! The order of the items within their column: fewer crossings read better.

use super::SWEEPS;
use super::net::Net;

/// Sorts the columns by barycentre, sweeping right and left in turn, and keeps the order with the fewest
/// crossings that was seen.
pub(super) fn untangle(net: &mut Net) {
    let mut place = vec![0_usize; net.layer_of.len()];
    for layer in &net.layers {
        number(layer, &mut place);
    }
    let mut best = net.layers.clone();
    let mut fewest = crossings(net, &place);
    for sweep in 0..SWEEPS {
        if fewest == 0 {
            break;
        }
        let rightward = sweep % 2 == 0;
        for step in 0..net.layers.len() {
            let at = if rightward { step } else { net.layers.len() - 1 - step };
            let mut layer = std::mem::take(&mut net.layers[at]);
            let side = if rightward { &net.left } else { &net.right };
            layer.sort_by_cached_key(|&item| barycentre(side.of(item), item, &place));
            number(&layer, &mut place);
            net.layers[at] = layer;
        }
        let found = crossings(net, &place);
        if found < fewest {
            fewest = found;
            best.clone_from(&net.layers);
        }
    }
    net.layers = best;
}

fn number(layer: &[usize], place: &mut [usize]) {
    for (at, &item) in layer.iter().enumerate() {
        place[item] = at;
    }
}

/// The mean place of the neighbours in 1/65536, and the present place where there are none or for a tie.
fn barycentre(neighbours: &[usize], item: usize, place: &[usize]) -> (u128, usize) {
    let sum: u128 = neighbours.iter().map(|&neighbour| place[neighbour] as u128).sum();
    let mean = match neighbours.len() as u128 {
        0 => (place[item] as u128) << 16,
        count => (sum << 16) / count,
    };
    (mean, place[item])
}

/// Counts the pairs of links that cross, in O(E log E): Barth, Jünger and Mutzel, "Simple and Efficient Bilayer
/// Cross Counting", 2002.
fn crossings(net: &Net, place: &[usize]) -> u64 {
    let mut total = 0;
    let mut ends = Vec::new();
    for pair in net.layers.windows(2) {
        ends.clear();
        for &item in &pair[0] {
            let from = ends.len();
            ends.extend(net.right.of(item).iter().map(|&to| place[to]));
            ends[from..].sort_unstable();
        }
        let mut seen = Tally::new(pair[1].len());
        for (before, &end) in ends.iter().enumerate() {
            total += before as u64 - seen.up_to(end);
            seen.add(end);
        }
    }
    total
}

/// Counts of numbers with running totals (Fenwick 1994).
struct Tally(Vec<u64>);

impl Tally {
    fn new(count: usize) -> Self {
        Self(vec![0; count + 1])
    }

    fn add(&mut self, number: usize) {
        let mut at = number + 1;
        while at < self.0.len() {
            self.0[at] += 1;
            at += at & at.wrapping_neg();
        }
    }

    /// How many numbers up to and including `number` were added.
    fn up_to(&self, number: usize) -> u64 {
        let mut at = number + 1;
        let mut sum = 0;
        while at > 0 {
            sum += self.0[at];
            at &= at - 1;
        }
        sum
    }
}
