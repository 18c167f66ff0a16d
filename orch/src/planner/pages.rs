//! A sequence whose copies share what they have in common.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

/// Elements of a page: what the first change after a copy costs.
const PAGE: usize = 32;

/// A sequence of fixed length, kept in pages. A copy costs a counter a page, and the first change in each page a copy of
/// that page: who keeps an old state of a run with a hundred thousand steps pays for those that change.
#[derive(Clone, Debug)]
pub struct Pages<T> {
    pages: Vec<Arc<[T]>>,
    len: usize,
}

impl<T> Pages<T> {
    /// How many elements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The element at a position, if there is such a one.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<&T> {
        self.pages.get(at / PAGE)?.get(at % PAGE)
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> + Clone {
        self.pages.iter().flat_map(|page| page.iter())
    }
}

impl<T: Clone> Pages<T> {
    /// The same element so many times.
    #[must_use]
    pub(super) fn of(element: T, len: usize) -> Self {
        std::iter::repeat_n(element, len).collect()
    }

    /// The elements in order, to be changed.
    #[cfg(test)]
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pages.iter_mut().flat_map(|page| Arc::make_mut(page).iter_mut())
    }
}

impl<T> FromIterator<T> for Pages<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let (mut elements, mut pages, mut len) = (elements.into_iter(), Vec::new(), 0);
        loop {
            let page: Vec<T> = elements.by_ref().take(PAGE).collect();
            if page.is_empty() {
                return Self { pages, len };
            }
            len += page.len();
            pages.push(page.into());
        }
    }
}

impl<'a, T> IntoIterator for &'a Pages<T> {
    type Item = &'a T;
    type IntoIter = std::iter::FlatMap<
        std::slice::Iter<'a, Arc<[T]>>,
        std::slice::Iter<'a, T>,
        fn(&'a Arc<[T]>) -> std::slice::Iter<'a, T>,
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.pages.iter().flat_map(|page| page.iter())
    }
}

/// # Panics
/// When there is no such position.
impl<T> Index<usize> for Pages<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        &self.pages[at / PAGE][at % PAGE]
    }
}

/// # Panics
/// When there is no such position.
impl<T: Clone> IndexMut<usize> for Pages<T> {
    fn index_mut(&mut self, at: usize) -> &mut T {
        &mut Arc::make_mut(&mut self.pages[at / PAGE])[at % PAGE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_what_it_was_and_shares_every_page_that_has_not_changed() {
        for len in [0, 1, PAGE - 1, PAGE, PAGE + 1, 10 * PAGE + 3] {
            let mut now: Pages<usize> = (0..len).collect();
            let before = now.clone();
            for at in (0..len).step_by(2 * PAGE) {
                now[at] += 1_000;
            }
            let expected = |at: &usize| if at.is_multiple_of(2 * PAGE) { at + 1_000 } else { *at };
            assert!(before.iter().copied().eq(0..len), "{len}");
            assert!(now.iter().copied().eq((0..len).map(|at| expected(&at))), "{len}");
            assert!((0..len).all(|at| now.get(at) == Some(&expected(&at)) && before[at] == at), "{len}");
            assert_eq!((now.get(len), now.len(), now.is_empty()), (None, len, len == 0));
            let shared =
                before.pages.iter().zip(&now.pages).filter(|(old, new)| Arc::ptr_eq(old, new)).count();
            assert_eq!(shared, len.div_ceil(PAGE) / 2, "{len}");
        }
    }
}
