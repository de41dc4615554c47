/**
 * The timeline's own words in the languages of locales/. English is the key; a language or a text that is not here stays
 * English. What the server says (notes of a run) is English everywhere.
 */

const TRANSLATIONS = {
  zh: {
    "Step {n}": "第 {n} 步",
    "low resolution": "低分辨率",
    "full resolution": "完整分辨率",
    "deep features computed and kept": "计算并保留深层特征",
    "deep features reused": "重用深层特征",
    "cross-attention computed": "计算交叉注意力",
    "cross-attention reused": "重用交叉注意力",
    "guidance on": "有引导",
    "guidance off": "无引导",
    Estimate: "估计",
    Plan: "计划",
    none: "无",
    "{first} to {last}": "{first} 至 {last}",
    "{seconds} s": "{seconds} 秒",
    "{factor}× speed-up": "加速 {factor} 倍",
    "−{percent} % work": "计算量 −{percent} %",
    "full-res": "完整分辨率",
    "low-res": "低分辨率",
    computed: "计算",
    "deep reused": "重用深层",
    "cross-attn": "交叉注意力",
    reused: "重用",
    guided: "有引导",
    unguided: "无引导",
    "guidance to": "引导至",
    estimate: "估计",
    starting: "开始",
    "step {n}": "第 {n} 步",
    "of {total}": "共 {total} 步",
    "{total} steps": "{total} 步",
    "{total} steps of {title}": "{title} 的 {total} 步",
    "{total} steps, no sampler yet": "{total} 步，尚无采样器",
    "Muted: this node does not run.": "已静音：此节点不会运行。",
    "Bypassed: this node does nothing.": "已绕过：此节点不起作用。",
    "Inside a node that does not run.": "位于不会运行的节点内。",
    "The preset “{name}” is shown when the run starts.": "预设“{name}”将在运行开始时显示。",
    "auto: drawn for an unknown model; the run recognises yours.": "auto：此处按未知模型绘制，运行时会识别你的模型。",
    "The steps come from the sigmas at run time.": "步数在运行时由 sigmas 决定。",
    "{name} comes through a link: shown when the run starts.": "{name} 来自连线，将在运行开始时显示。",
  },
  ja: {
    "Step {n}": "ステップ {n}",
    "low resolution": "低解像度",
    "full resolution": "元の解像度",
    "deep features computed and kept": "深い特徴を計算して保持",
    "deep features reused": "深い特徴を再利用",
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
    "full-res": "元の解像度",
    "low-res": "低解像度",
    computed: "計算",
    "deep reused": "深部を再利用",
    "cross-attn": "クロスアテンション",
    reused: "再利用",
    guided: "ガイダンスあり",
    unguided: "ガイダンスなし",
    "guidance to": "ガイダンスの終わり",
    estimate: "見積もり",
    starting: "開始",
    "step {n}": "ステップ {n}",
    "of {total}": "/ {total}",
    "{total} steps": "{total} ステップ",
    "{total} steps of {title}": "{title} の {total} ステップ",
    "{total} steps, no sampler yet": "{total} ステップ、サンプラー未接続",
    "Muted: this node does not run.": "ミュート中：このノードは実行されません。",
    "Bypassed: this node does nothing.": "バイパス中：このノードは何もしません。",
    "Inside a node that does not run.": "実行されないノードの中にあります。",
    "The preset “{name}” is shown when the run starts.": "プリセット「{name}」は実行開始時に表示されます。",
    "auto: drawn for an unknown model; the run recognises yours.":
      "auto：未知のモデルとして描いています。実行時にモデルを認識します。",
    "The steps come from the sigmas at run time.": "ステップ数は実行時に sigmas から決まります。",
    "{name} comes through a link: shown when the run starts.":
      "{name} はリンクから渡されます。実行開始時に表示されます。",
  },
};

export const LANGUAGES = Object.keys(TRANSLATIONS);

/** say(text, values): the text in this language, with `{name}` replaced by `values.name`. */
export function wordsOf(language) {
  const known = TRANSLATIONS[language] ?? {};
  return (text, values = {}) => (known[text] ?? text).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}
