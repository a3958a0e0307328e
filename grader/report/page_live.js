
// The watching grader answers when there is a newer page. Folds that are open stay open.
const FOLDS = "open folds";
const named = () => [...document.querySelectorAll("details")].map(
  (fold) => [`${fold.parentElement.closest("[id]")?.id} ${fold.querySelector("summary").textContent.trim()}`, fold]);
const before = new Set(JSON.parse(sessionStorage.getItem(FOLDS) || "[]"));
for (const [name, fold] of named()) if (before.has(name)) fold.open = true;

async function watch() {
  const live = document.getElementById("live");
  for (;;) {
    let answer;
    try {
      answer = await fetch(`newer-than/${live.dataset.version}`);
    } catch {
      live.textContent = "grade watch has ended: this page stays as it is";
      return;
    }
    if (answer.status === 200) {
      const open = named().filter(([, fold]) => fold.open).map(([name]) => name);
      sessionStorage.setItem(FOLDS, JSON.stringify(open));
      location.reload();
      return;
    }
  }
}
watch();
