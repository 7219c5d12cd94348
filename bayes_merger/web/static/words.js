// Numbers as people read them.

// 7, or 7½
export function points(score) {
  const whole = Math.floor(score);
  if (score === whole) return String(whole);
  return score - whole === 0.5 ? `${whole || ""}½` : score.toFixed(1);
}

// Seconds: about 12 min left
export function countdown(seconds) {
  const minutes = Math.ceil(seconds / 60);
  return minutes < 90 ? `about ${minutes} min left` : `about ${(minutes / 60).toFixed(1)} h left`;
}
