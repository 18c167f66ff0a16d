//! How far down every item goes: straight edges read better.

use super::net::{Neighbours, Net};
use super::{Metrics, SWEEPS};

/// A bend out of line shows more than a card out of line.
const BEND_WEIGHT: i64 = 8;

/// The middle of every item, in pixels; may be negative.
pub(super) fn middles(net: &Net, metrics: &Metrics) -> Vec<i64> {
    let mut middles = vec![0; net.layer_of.len()];
    for layer in &net.layers {
        let wishes: Vec<i64> = vec![0; layer.len()];
        settle(net, metrics, layer, &wishes, &mut middles);
    }
    for sweep in 0..SWEEPS {
        let rightward = sweep % 2 == 0;
        let side = if rightward { &net.left } else { &net.right };
        for step in 0..net.layers.len() {
            let layer = &net.layers[if rightward { step } else { net.layers.len() - 1 - step }];
            let wishes: Vec<i64> = layer.iter().map(|&item| median(side, item, &middles)).collect();
            settle(net, metrics, layer, &wishes, &mut middles);
        }
    }
    // The last sweep looked to the right only; sinks, which have nothing there, follow what it moved.
    for layer in &net.layers {
        let sink = |item: usize| net.right.of(item).is_empty();
        let wish = |&item: &usize| if sink(item) { median(&net.left, item, &middles) } else { middles[item] };
        let wishes: Vec<i64> = layer.iter().map(wish).collect();
        settle(net, metrics, layer, &wishes, &mut middles);
    }
    middles
}

/// The median of the neighbours' middles; without neighbours, where the item is.
fn median(side: &Neighbours, item: usize, middles: &[i64]) -> i64 {
    let mut found: Vec<i64> = side.of(item).iter().map(|&neighbour| middles[neighbour]).collect();
    found.sort_unstable();
    match found.len() {
        0 => middles[item],
        count if count % 2 == 1 => found[count / 2],
        count => (found[count / 2 - 1] + found[count / 2]).div_euclid(2),
    }
}

/// Places the items of a column as near to their wishes as their order and distances allow: least squares, by
/// pooling adjacent violators (Ayer et al. 1955).
fn settle(net: &Net, metrics: &Metrics, layer: &[usize], wishes: &[i64], middles: &mut [i64]) {
    // Without the distances the items of a column only have to be in order; `offset` adds them back.
    let mut offsets = Vec::with_capacity(layer.len());
    let mut offset = 0;
    // (weight, weighted sum, items) of neighbouring items that share a position.
    let mut blocks: Vec<(i64, i64, usize)> = Vec::new();
    for (at, (&item, wish)) in layer.iter().zip(wishes).enumerate() {
        if at > 0 {
            offset += distance(net, metrics, layer[at - 1], item);
        }
        offsets.push(offset);
        let weight = if net.is_bend(item) { BEND_WEIGHT } else { 1 };
        let mut block = (weight, weight * (wish - offset), 1);
        while let Some(last) = blocks.pop_if(|last| last.1.div_euclid(last.0) >= block.1.div_euclid(block.0))
        {
            block = (last.0 + block.0, last.1 + block.1, last.2 + block.2);
        }
        blocks.push(block);
    }
    let places =
        blocks.iter().flat_map(|&(weight, sum, items)| std::iter::repeat_n(sum.div_euclid(weight), items));
    for ((&item, offset), place) in layer.iter().zip(offsets).zip(places) {
        middles[item] = place + offset;
    }
}

/// The least distance between the middles of two items.
fn distance(net: &Net, metrics: &Metrics, upper: usize, lower: usize) -> i64 {
    match (net.is_bend(upper), net.is_bend(lower)) {
        (true, true) => metrics.bend_gap,
        (false, false) => metrics.card_height + metrics.card_gap,
        _ => metrics.card_height / 2 + metrics.card_gap,
    }
}
