// Before the first paint: the theme that this browser was told to keep, or the system's.
try {
  const kept = localStorage.getItem('sluice.theme');
  if (kept === 'light' || kept === 'dark') document.documentElement.dataset.theme = kept;
} catch {
  // storage is refused: the system's theme it is
}
