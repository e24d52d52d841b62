//! The objects of one kind, by namespace and name.

use super::{Object, Sourced};
use crate::sharded::Sharded;
use std::{borrow::Borrow, fmt, sync::Arc};

/// `namespace/name` of an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// Of an object with this name in this namespace; neither has a slash.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(_, name)| name)
    }

    /// `namespace/name`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An object, shared: by readings, and by what is made of them.
pub type Shared<T> = Arc<Sourced<T>>;

/// Objects of one kind. Clones share what neither has changed, so a reading can be kept to compare the
/// next one with.
pub struct Store<T> {
    /// One object a name.
    objects: Sharded<Key, Shared<T>>,
    /// Younger objects of the same names, oldest first: manifests may name one twice.
    others: Sharded<Key, Vec<Shared<T>>>,
}

impl<T> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self { objects: self.objects.clone(), others: self.others.clone() }
    }
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { objects: Sharded::default(), others: Sharded::default() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Store<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T> Store<T> {
    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is no object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Every object, in no order; of those with one name the oldest.
    pub fn iter(&self) -> impl Iterator<Item = &Sourced<T>> {
        self.objects.values().map(|object| &**object)
    }

    /// The same, shared.
    pub(super) fn shared(&self) -> impl Iterator<Item = &Shared<T>> {
        self.objects.values()
    }

    /// The object with a key, or with `namespace/name`.
    pub fn get(&self, key: &(impl Borrow<str> + ?Sized)) -> Option<&Shared<T>> {
        self.objects.get(key.borrow())
    }

    /// Objects of the same name that are younger and not used, oldest first.
    pub fn others(&self, key: &(impl Borrow<str> + ?Sized)) -> &[Shared<T>] {
        self.others.get(key.borrow()).map_or(&[], Vec::as_slice)
    }

    /// The same for all names, in no order.
    pub fn all_others(&self) -> impl Iterator<Item = &Sourced<T>> {
        self.others.values().flatten().map(|object| &**object)
    }
}

impl<T: Object> Store<T> {
    /// Adds an object. Where its name is taken, the older of the two is used.
    pub fn add(&mut self, object: Shared<T>) {
        let key = object.key();
        let Some(holder) = self.objects.get(&key) else {
            self.objects.insert(key, object);
            return;
        };
        let younger = if object.seniority() < holder.seniority() {
            self.objects.insert(key.clone(), object)
        } else {
            Some(object)
        };
        if let (Some(younger), Some(others)) = (younger, self.others.entry_or_default(key)) {
            let place = others.partition_point(|other| other.seniority() < younger.seniority());
            others.insert(place, younger);
        }
    }

    /// Puts an object in the place of whatever has its name.
    pub fn replace(&mut self, object: Shared<T>) {
        let key = object.key();
        self.others.remove(&key);
        self.objects.insert(key, object);
    }

    /// Removes whatever has this name; whether there was something.
    pub fn forget(&mut self, key: &Key) -> bool {
        self.others.remove(key);
        self.objects.remove(key).is_some()
    }
}

impl<T: Object + PartialEq> Store<T> {
    /// Removes one object that was added; of those with its name the next oldest is used then.
    pub fn remove(&mut self, object: &Shared<T>) {
        let key = object.key();
        let mut left: Vec<_> = self.objects.remove(&key).into_iter().collect();
        left.extend(self.others.remove(&key).unwrap_or_default());
        if let Some(index) = left.iter().position(|one| Arc::ptr_eq(one, object) || one == object) {
            left.remove(index);
        }
        left.into_iter().for_each(|one| self.add(one));
    }

    /// Names whose objects differ, duplicates included.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<Key> {
        let mut keys: Vec<_> = self.objects.differences(&other.objects).into_iter().cloned().collect();
        keys.extend(self.others.differences(&other.others).into_iter().cloned());
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Takes out what `old` holds and puts in what `new` holds. What is in both is not touched, even where
    /// it was read anew.
    pub fn exchange(&mut self, old: &Self, new: &Self) {
        for key in new.differences(old) {
            let all = |store: &Self| -> Vec<Shared<T>> {
                store.get(&key).into_iter().chain(store.others(&key)).cloned().collect()
            };
            let (old, new) = (all(old), all(new));
            old.iter().filter(|one| !new.contains(one)).for_each(|one| self.remove(one));
            new.into_iter().filter(|one| !old.contains(one)).for_each(|one| self.add(one));
        }
    }
}

impl<'a, T> IntoIterator for &'a Store<T> {
    type Item = &'a Sourced<T>;
    type IntoIter = Box<dyn Iterator<Item = &'a Sourced<T>> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

impl<T: Object> Extend<Sourced<T>> for Store<T> {
    fn extend<I: IntoIterator<Item = Sourced<T>>>(&mut self, objects: I) {
        objects.into_iter().for_each(|object| self.add(Arc::new(object)));
    }
}

impl<T: Object> FromIterator<Sourced<T>> for Store<T> {
    fn from_iter<I: IntoIterator<Item = Sourced<T>>>(objects: I) -> Self {
        let mut store = Self::default();
        store.extend(objects);
        store
    }
}

/// By their place in the manifest.
#[cfg(test)]
impl<T> std::ops::Index<usize> for Store<T> {
    type Output = Sourced<T>;

    #[expect(clippy::indexing_slicing, reason = "tests")]
    fn index(&self, index: usize) -> &Sourced<T> {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_by_key(|object| (&object.file, object.lines.object));
        all[index]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::source::objects;
    use crate::source::packed::Packed;
    use k8s_openapi::api::core::v1::Service;

    /// Services `a` and `b`, `a` of this month.
    fn services(month: u32) -> Store<Packed<Service>> {
        let service = |name: &str, month: u32| {
            format!(
                "apiVersion: v1\nkind: Service\n\
                 metadata: {{name: {name}, creationTimestamp: \"2024-{month:02}-01T00:00:00Z\"}}\n---\n"
            )
        };
        objects(&(service("a", month) + &service("b", 1))).services
    }

    fn month(store: &Store<Packed<Service>>) -> String {
        let created = store.get("default/a").unwrap().object.created();
        created.unwrap().0.to_string()[5..7].to_owned()
    }

    #[test]
    fn of_several_objects_of_one_name_the_oldest_is_used_and_then_the_next() {
        let mut store = Store::default();
        let all: Vec<_> = [3, 1, 2].map(|month| services(month).get("default/a").unwrap().clone()).into();
        all.iter().for_each(|one| store.add(Arc::clone(one)));
        assert_eq!((store.len(), month(&store).as_str(), store.others("default/a").len()), (1, "01", 2));
        store.remove(&all[1]);
        assert_eq!((month(&store).as_str(), store.others("default/a").len()), ("02", 1));
        store.remove(&all[0]);
        assert_eq!((month(&store).as_str(), store.others("default/a").len()), ("02", 0));
        store.remove(&all[2]);
        assert!(store.is_empty());
    }

    #[test]
    fn what_was_read_anew_and_is_the_same_keeps_its_place() {
        let (old, new) = (services(1), services(2));
        let mut store = old.clone();
        store.exchange(&old, &new);
        assert_eq!(month(&store), "02");
        assert_eq!(store.differences(&old), [Key::new("default", "a")]);
        let b = |store: &Store<Packed<Service>>| Arc::clone(store.get("default/b").unwrap());
        assert!(Arc::ptr_eq(&b(&store), &b(&old)));
    }

    #[test]
    fn an_exchange_leaves_what_others_brought() {
        let (old, new) = (services(1), Store::default());
        let mut store = old.clone();
        store.exchange(&Store::default(), &services(6));
        store.exchange(&old, &new);
        assert_eq!((store.len(), month(&store).as_str()), (2, "06"));
    }

    #[test]
    fn an_object_from_an_api_takes_the_place_of_its_older_self() {
        let mut store = services(1);
        store.replace(Arc::clone(services(9).get("default/a").unwrap()));
        assert_eq!((month(&store).as_str(), store.others("default/a").len()), ("09", 0));
        assert!(store.forget(&Key::new("default", "a")) && !store.forget(&Key::new("default", "a")));
        assert_eq!(store.len(), 1);
    }
}
