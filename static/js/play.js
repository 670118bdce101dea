// Small things to play with on the stage pages. What computes the formula above it stays hidden without this script,
// and the formula stands for itself; sliders through a run are forms, which this only makes better to listen to.

/** Reward: two scores in, the share of people expected to prefer A out (Bradley–Terry). */
function playPreference(box) {
  const [a, b] = box.querySelectorAll("input[type=range]");
  const show = () => {
    const share = 1 / (1 + Math.exp(b.valueAsNumber - a.valueAsNumber));
    for (const input of [a, b]) input.nextElementSibling.value = signed(input.valueAsNumber, 1);
    box.querySelector("[data-share]").value = `${Math.round(100 * share)} %`;
    box.querySelector("progress").value = share;
  };
  box.addEventListener("input", show);
  show();
}

/** GRPO: a group of attempts that can be marked right or wrong, and everyone's advantage. */
function playGroup(box) {
  const attempts = [...box.querySelectorAll("button")];
  const show = () => {
    const rewards = attempts.map((attempt) => Number(attempt.getAttribute("aria-pressed") === "true"));
    const mean = rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;
    const squares = rewards.reduce((sum, reward) => sum + (reward - mean) ** 2, 0);
    const spread = Math.sqrt(squares / (rewards.length - 1));
    attempts.forEach((attempt, index) => {
      attempt.querySelector("[data-verdict]").textContent = rewards[index] ? "✓ right" : "✗ wrong";
      attempt.querySelector("[data-advantage]").textContent = spread ? signed((rewards[index] - mean) / spread, 2) : "0";
    });
    box.querySelector("[data-result]").value = spread
      ? "Right attempts become likelier, wrong ones less likely, in proportion to these advantages."
      : "All alike: there is nothing to compare, and the group is dropped.";
  };
  for (const attempt of attempts) {
    attempt.addEventListener("click", () => {
      attempt.setAttribute("aria-pressed", String(attempt.getAttribute("aria-pressed") !== "true"));
      show();
    });
  }
  show();
}

/** PPO: answers with their score and KL, and what the reward makes of them at another weight. */
function playWeight(box) {
  const figure = box.closest("figure");
  const slider = box.querySelector("input");
  const rows = [...figure.querySelectorAll("[data-score]")];
  const show = () => {
    const weight = slider.valueAsNumber;
    const rewards = rows.map((row) => Number(row.dataset.score) - weight * Number(row.dataset.kl));
    const mean = rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;
    rows.forEach((row, index) => {
      const isAbove = rewards[index] > mean;
      const cell = row.querySelector("[data-reward]");
      const arrow = cell.querySelector("span");
      arrow.className = isAbove ? "good" : "bad";
      arrow.firstChild.data = isAbove ? "▲" : "▼";
      arrow.querySelector("span").textContent = isAbove ? " likelier" : " less likely";
      cell.firstChild.data = `${signed(rewards[index], 2)} `;
    });
    slider.nextElementSibling.value = weight.toFixed(2);
    const best = rows[rewards.indexOf(Math.max(...rewards))].querySelector(".answer").textContent;
    const short = best.length > 60 ? `${best.slice(0, 60)}…` : best;
    box.querySelector("[data-result]").value = `Rewarded most at this weight: “${short}”`;
  };
  slider.addEventListener("input", show);
  show();
}

function signed(value, digits) {
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
}

const PLAYS = { preference: playPreference, group: playGroup, weight: playWeight };

function start(within) {
  for (const box of within.querySelectorAll("[data-play][hidden]")) {
    PLAYS[box.dataset.play](box);
    box.hidden = false;
  }
}

start(document);
// What a slider through a run has fetched is new.
document.addEventListener("htmx:afterSettle", () => start(document));

/** A slider through a run says what it stands at, which the part it fetched knows. */
function sayPlace(form) {
  const shown = document.querySelector(form.dataset.scrub);
  form.querySelector("input[type=range]").setAttribute("aria-valuetext", shown.dataset.said);
}

for (const form of document.querySelectorAll("[data-scrub]")) {
  sayPlace(form);
  document.addEventListener("htmx:afterSettle", () => sayPlace(form));
}

const temperature = document.getElementById("next-temperature");
temperature?.addEventListener("input", () => {
  temperature.nextElementSibling.value = temperature.valueAsNumber.toFixed(1);
});
