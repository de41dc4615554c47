/**
 * The timeline's own words in the languages of locales/. English is the key; a language or a text that is not here stays
 * English. What the server says (notes of a run, and plan.js in its words) is English everywhere.
 */

const TRANSLATIONS = {
  zh: {
    ": ": "：",
    ", ": "，",
    "; ": "；",
    ".": "。",
    "Step {n}": "第 {n} 步",
    "low resolution": "低分辨率",
    "full resolution": "全分辨率",
    "deep features computed and kept": "计算并保留深层特征",
    "deep features reused": "重用深层特征",
    "cross-attention computed": "计算交叉注意力",
    "cross-attention reused": "重用交叉注意力",
    "guidance on": "有引导",
    "guidance off": "无引导",
    Estimate: "预估",
    Plan: "计划",
    none: "无",
    "{first} to {last}": "{first} 至 {last}",
    "{seconds} s": "{seconds} 秒",
    "{factor}× speed-up": "加速比 {factor}×",
    "−{percent} % work": "计算量 −{percent} %",
    "full-res": "全分辨率",
    "low-res": "低分辨率",
    computed: "计算",
    "deep reused": "深层重用",
    "cross-attn": "交叉注意力",
    reused: "重用",
    guided: "有引导",
    unguided: "无引导",
    "guidance to": "引导至",
    estimate: "预估",
    starting: "启动中",
    "step {n}": "第 {n} 步",
    "of {total}": "共 {total} 步",
    "{total} steps": "{total} 步",
    "{total} steps of {title}": "{title} 的 {total} 步",
    "{total} steps, no sampler found": "{total} 步，未找到采样器",
    "whole run": "整个运行",
    "Muted: this node does not run.": "已静音：此节点不会运行。",
    "Bypassed: this node does nothing.": "已绕过：此节点不起作用。",
    "Inside a node that does not run.": "位于不会运行的节点内。",
    "The preset “{name}” is shown when the run starts.": "预设“{name}”将在运行开始时显示。",
    "The preset “{name}” is not on this machine: choose another, or auto.":
      "此机器上没有预设“{name}”：请选择其他预设或 auto。",
    "auto: drawn for LCM on SD1.5; the run recognises yours.": "auto：此处按 SD1.5 上的 LCM 绘制，运行时会识别你的模型。",
    "auto: drawn for an unknown model; the run recognises yours.": "auto：此处按未知模型绘制，运行时会识别你的模型。",
    "The steps come from the sigmas at run time.": "步数在运行时由 sigmas 决定。",
    "{name} comes through a link: shown when the run starts.": "{name} 来自连线，将在运行开始时显示。",
  },
  ja: {
    ": ": "：",
    ", ": "、",
    "; ": "；",
    ".": "。",
    "Step {n}": "ステップ {n}",
    "low resolution": "低解像度",
    "full resolution": "フル解像度",
    "deep features computed and kept": "深層特徴を計算して保持",
    "deep features reused": "深層特徴を再利用",
    "cross-attention computed": "クロスアテンションを計算",
    "cross-attention reused": "クロスアテンションを再利用",
    "guidance on": "ガイダンスあり",
    "guidance off": "ガイダンスなし",
    Estimate: "見積もり",
    Plan: "計画",
    none: "なし",
    "{first} to {last}": "{first}〜{last}",
    "{seconds} s": "{seconds} 秒",
    "{factor}× speed-up": "{factor} 倍速",
    "−{percent} % work": "計算量 −{percent} %",
    "full-res": "フル解像度",
    "low-res": "低解像度",
    computed: "計算",
    "deep reused": "深層を再利用",
    "cross-attn": "クロスアテンション",
    reused: "再利用",
    guided: "ガイダンスあり",
    unguided: "ガイダンスなし",
    "guidance to": "ガイダンス終了",
    estimate: "見積もり",
    starting: "開始中",
    "step {n}": "ステップ {n}",
    "of {total}": "/ {total}",
    "{total} steps": "{total} ステップ",
    "{total} steps of {title}": "{title} の {total} ステップ",
    "{total} steps, no sampler found": "{total} ステップ、サンプラーが見つかりません",
    "whole run": "実行全体",
    "Muted: this node does not run.": "ミュート中：このノードは実行されません。",
    "Bypassed: this node does nothing.": "バイパス中：このノードは何もしません。",
    "Inside a node that does not run.": "実行されないノードの中にあります。",
    "The preset “{name}” is shown when the run starts.": "プリセット「{name}」は実行開始時に表示されます。",
    "The preset “{name}” is not on this machine: choose another, or auto.":
      "プリセット「{name}」はこのマシンにありません。別のものか auto を選んでください。",
    "auto: drawn for LCM on SD1.5; the run recognises yours.":
      "auto：SD1.5のLCMとして描いています。実行時にお使いのモデルを判別します。",
    "auto: drawn for an unknown model; the run recognises yours.":
      "auto：未知のモデルとして描いています。実行時にお使いのモデルを判別します。",
    "The steps come from the sigmas at run time.": "ステップ数は実行時に sigmas から決まります。",
    "{name} comes through a link: shown when the run starts.":
      "{name} はリンクから渡されます。実行開始時に表示されます。",
  },
};

/** English alone has one for what is counted here. */
const singular = (text, { total }) => (total === 1 ? text.replace("{total} steps", "{total} step") : text);

export const LANGUAGES = Object.keys(TRANSLATIONS);

/** say(text, values): the text in this language, with `{name}` replaced by `values.name`. */
export function wordsOf(language) {
  const known = TRANSLATIONS[language] ?? {};
  return (text, values = {}) =>
    (known[text] ?? singular(text, values)).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}
