//! The harness: network namespaces, cgroups, pods, the agent, scripted upstreams.
