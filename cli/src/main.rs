mod local;
fn main() {}
